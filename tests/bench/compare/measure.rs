//! Runs the work of each group, in turn on all that are compared.

use std::error::Error;
use std::time::Duration;

use ringshift_tests::compare::table::{Row, Times};
use ringshift_tests::compare::{
    Bench, Group, Outcome, Session, Work, boot as boots, real_mode, ring0, work,
};

use crate::Options;

type Rows = Result<Vec<Row>, Box<dyn Error>>;

/// Programs on Linux: three servers, one order after the other.
pub(crate) fn programs(work: &[&Work], options: &Options) -> Rows {
    let bench = Bench::new(options.kernel)?;
    let mut ringshift = Session::start(bench.ringshift("serve")?)?;
    let start = |wanted: bool, command| wanted.then(|| Session::start(command)).transpose();
    let mut native = start(!options.no_native, bench.native("serve"))?;
    let mut qemu = start(!options.no_qemu, bench.qemu("serve"))?;
    let time = |outcome: &Outcome| match options.least {
        true => outcome.least_ns,
        false => outcome.ns,
    };
    let mut times = vec![Vec::new(); work.len()];
    let mut outcomes = vec![Vec::new(); work.len()];
    for _ in 0..options.runs.get() {
        for ((work, times), outcomes) in work.iter().zip(&mut times).zip(&mut outcomes) {
            let order = |session: &mut Option<Session>| {
                let outcome = session
                    .as_mut()
                    .map(|session| session.order(work, options.time));
                outcome.transpose()
            };
            let native = order(&mut native)?;
            let ours = ringshift.order(work, options.time)?;
            let qemu = order(&mut qemu)?;
            let ns = |outcome: Option<Outcome>| outcome.as_ref().map(time);
            times.push(Times {
                native: ns(native),
                ringshift: time(&ours),
                qemu: ns(qemu),
            });
            let all = [native, Some(ours), qemu];
            outcomes.push(all.into_iter().flatten().collect::<Vec<_>>());
        }
    }
    for session in [Some(ringshift), native, qemu].into_iter().flatten() {
        session.end()?;
    }
    let rows = work.iter().zip(times).zip(outcomes);
    Ok(rows
        .map(|((work, times), outcomes)| {
            let mut row = Row::new(work, times);
            outcomes.iter().for_each(|run| row.compare(run));
            row
        })
        .collect())
}

/// Small kernels, measured from outside.
pub(crate) fn kernels(work: &[&Work], options: &Options) -> Rows {
    let mut rows = Vec::new();
    for work in work {
        let says_more = work.group == Group::Ring0;
        let kernel = if says_more {
            let number = work::RING0.iter().position(|known| known.name == work.name);
            ring0::kernel(number.ok_or("an unknown kernel")?, work)?
        } else {
            let known = real_mode::WORK.iter();
            let mut known = known.filter(|program| program.work.name == work.name);
            real_mode::kernel(known.next().ok_or("an unknown kernel")?)?
        };
        let mut agree = true;
        let mut times = Vec::new();
        for _ in 0..options.runs.get() {
            let (ours, said) = ring0::time(ring0::ringshift(&kernel)?, says_more)?;
            let mut qemu = None;
            if !options.no_qemu {
                let (theirs, also) = ring0::time(ring0::qemu(&kernel), says_more)?;
                agree &= said == also;
                qemu = Some(each(theirs, work));
            }
            times.push(Times {
                native: None,
                ringshift: each(ours, work),
                qemu,
            });
        }
        let mut row = Row::new(work, times);
        row.agree = agree;
        rows.push(row);
    }
    Ok(rows)
}

/// Debian's kernel from start to init; the first pair warms the page cache.
pub(crate) fn boot(work: &[&Work], options: &Options) -> Rows {
    let Some(work) = work.first() else {
        return Ok(Vec::new());
    };
    let mut times = Vec::new();
    for run in 0..=options.runs.get() {
        let (ours, theirs) = boots::pair()?;
        if run > 0 {
            times.push(Times {
                native: None,
                ringshift: each(ours, work),
                qemu: (!options.no_qemu).then(|| each(theirs, work)),
            });
        }
    }
    Ok(vec![Row::new(work, times)])
}

fn each(time: Duration, work: &Work) -> f64 {
    time.as_nanos() as f64 / work.round as f64
}
