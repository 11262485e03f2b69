//! From the rings to the file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use decision::SwitchRecord;

use super::format::{self, End, Header};
use super::ring::Ring;

/// Records that a ring holds: 1 MiB, some tenths of a second of the busiest guest.
const CAPACITY: usize = 1 << 14;

/// The longest time between two looks of the drain thread.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes that are written at once.
const CHUNK: usize = 64 << 10;

/// Where the bytes go; a trait for tests.
trait Sink: Send {
    /// Writes all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts what a failed write left after the first `length` bytes.
    fn cut(&mut self, length: u64);
}

impl Sink for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn cut(&mut self, length: u64) {
        use std::io::Seek;
        // A pipe cannot be cut, and need not be.
        if self.set_len(length).is_ok() {
            let _ = self.seek(io::SeekFrom::End(0));
        }
    }
}

/// What did not get into the file.
#[derive(Debug, Default)]
pub struct Losses {
    /// Switches in the file.
    pub written: u64,
    /// Switches that are not.
    pub lost: u64,
    /// Why the file could not be written on, if that was it.
    pub error: Option<io::Error>,
}

/// The vCPU's end.
#[derive(Debug)]
pub struct Recorder {
    ring: Arc<Ring>,
    drain: Thread,
    wake_at: u64,
}

impl Recorder {
    /// Records a switch. Never waits.
    pub fn record(&self, record: &SwitchRecord) {
        if self.ring.push(format::encode(record)) == self.wake_at {
            self.drain.unpark();
        }
    }
}

/// A trace that is being written.
#[derive(Debug)]
pub struct Tracer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Writer>,
}

impl Tracer {
    /// Creates the file, writes the header, and starts the drain thread. One recorder for each vCPU.
    ///
    /// # Errors
    ///
    /// The file cannot be created or not be written, or there is no thread to be had.
    pub fn start(path: &Path, header: &Header) -> io::Result<(Tracer, Vec<Recorder>)> {
        Self::start_with(Box::new(File::create(path)?), header, CAPACITY)
    }

    fn start_with(
        mut sink: Box<dyn Sink>,
        header: &Header,
        capacity: usize,
    ) -> io::Result<(Tracer, Vec<Recorder>)> {
        let start = format::start(header)?;
        sink.write(&start)?;
        let rings: Vec<Arc<Ring>> = (0..header.vcpus.max(1))
            .map(|_| Arc::new(Ring::new(capacity)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            sink,
            rings: rings.clone(),
            told: vec![0; rings.len()],
            good: start.len() as u64,
            last_time: 0,
            losses: Losses::default(),
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("trace".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                writer.drain();
                thread::park_timeout(PAUSE);
            }
            writer.drain();
            writer
        })?;
        let recorders = rings.into_iter().map(|ring| Recorder {
            wake_at: ring.capacity() / 2,
            ring,
            drain: thread.thread().clone(),
        });
        let recorders = recorders.collect();
        Ok((Tracer { stop, thread }, recorders))
    }

    /// Writes what is left and the end. The recorders must not be used any more.
    pub fn finish(self, end: End) -> Losses {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        match self.thread.join() {
            Ok(writer) => writer.end(end),
            Err(_) => Losses {
                error: Some(io::Error::other("the trace thread failed")),
                ..Losses::default()
            },
        }
    }
}

/// The drain thread's state.
struct Writer {
    sink: Box<dyn Sink>,
    rings: Vec<Arc<Ring>>,
    /// Losses of each ring that are in the file.
    told: Vec<u64>,
    /// Bytes that are surely in the file.
    good: u64,
    /// Time of the last record.
    last_time: u64,
    losses: Losses,
}

impl Writer {
    /// Writes what waits in the rings.
    fn drain(&mut self) {
        let mut bytes = Vec::new();
        let mut count = 0;
        for index in 0..self.rings.len() {
            let ring = Arc::clone(&self.rings[index]);
            while let Some(words) = ring.pop() {
                self.last_time = words[0];
                bytes.extend(format::bytes(&words));
                count += 1;
                if bytes.len() >= CHUNK {
                    self.write(&bytes, count);
                    (bytes, count) = (Vec::new(), 0);
                }
            }
            let lost = ring.lost();
            let new = lost - self.told[index];
            if new > 0 {
                self.told[index] = lost;
                self.losses.lost += new;
                bytes.extend(format::bytes(&format::loss(self.last_time, new)));
            }
        }
        self.write(&bytes, count);
    }

    /// Writes `count` switches; after the first failure they are only counted.
    fn write(&mut self, bytes: &[u8], count: u64) {
        if bytes.is_empty() {
            return;
        }
        if self.losses.error.is_some() {
            self.losses.lost += count;
            return;
        }
        match self.sink.write(bytes) {
            Ok(()) => {
                self.good += bytes.len() as u64;
                self.losses.written += count;
            }
            Err(error) => {
                self.sink.cut(self.good);
                self.losses.lost += count;
                self.losses.error = Some(error);
            }
        }
    }

    fn end(mut self, end: End) -> Losses {
        let end = End {
            written: self.losses.written,
            lost: self.losses.lost,
            ..end
        };
        // Where records did not fit the end may: it is short, and space comes and goes.
        let written = format::end(&end)
            .map_err(io::Error::from)
            .and_then(|bytes| self.sink.write(&bytes));
        if let Err(error) = written {
            self.sink.cut(self.good);
            self.losses.error.get_or_insert(error);
        }
        self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::tests::record;
    use crate::trace::{Item, TraceReader};
    use decision::Engine;
    use std::sync::Mutex;

    /// A disk with room for so many bytes.
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Sink for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut disk = self.bytes.lock().unwrap();
            let fits = bytes.len().min(self.room - disk.len());
            disk.extend(&bytes[..fits]);
            if fits < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn cut(&mut self, length: u64) {
            self.bytes.lock().unwrap().truncate(length as usize);
        }
    }

    fn trace(room: usize, capacity: usize, count: u64) -> (Losses, Vec<u8>) {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk {
            bytes: Arc::clone(&bytes),
            room,
        };
        let (tracer, recorders) =
            Tracer::start_with(Box::new(disk), &Header::default(), capacity).expect("a trace");
        for time in 0..count {
            recorders[0].record(&record(Engine::Direct, time));
        }
        let losses = tracer.finish(End::default());
        let bytes = bytes.lock().unwrap().clone();
        (losses, bytes)
    }

    #[test]
    fn what_is_recorded_is_in_the_file() {
        let (losses, bytes) = trace(usize::MAX, 1 << 14, 5_000);
        assert_eq!((losses.written, losses.lost), (5_000, 0));
        assert!(losses.error.is_none());
        let mut reader = TraceReader::new(&bytes[..]).expect("a trace");
        let mut switches = 0;
        for item in &mut reader {
            if let Item::Switch(record) = item {
                assert_eq!(record.time_ns, switches);
                switches += 1;
            }
        }
        assert_eq!(switches, 5_000);
        assert_eq!(reader.warning(), None);
        assert_eq!(reader.end().expect("an end").written, 5_000);
    }

    #[test]
    fn a_full_disk_costs_records_and_nothing_else() {
        let (losses, bytes) = trace(20_000, 1 << 14, 5_000);
        assert_eq!(losses.written + losses.lost, 5_000);
        assert!(losses.lost > 0);
        let error = losses.error.expect("the disk was full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut reader = TraceReader::new(&bytes[..]).expect("a trace");
        let found = (&mut reader)
            .filter(|item| matches!(item, Item::Switch(_)))
            .count();
        assert_eq!(found as u64, losses.written);
    }

    #[test]
    fn a_full_ring_is_told_in_the_file() {
        let (losses, bytes) = trace(usize::MAX, 8, 100_000);
        assert_eq!(losses.written + losses.lost, 100_000);
        let mut lost = 0;
        let mut reader = TraceReader::new(&bytes[..]).expect("a trace");
        for item in &mut reader {
            if let Item::Loss { count, .. } = item {
                lost += count;
            }
        }
        assert_eq!(lost, losses.lost);
        assert_eq!(reader.end().expect("an end").lost, losses.lost);
    }
}
