//! Scan code sets, typematic repeat.

use super::*;

/// A keyboard whose bytes are not translated, in scan code set `set`.
fn in_set(set: u8) -> Bench {
    let mut b = Bench::new();
    b.command(command::WRITE_RAM);
    b.data(Config::KBD_INT.bits());
    assert_eq!(b.keyboard(0xf0), [0xfa]);
    assert_eq!(b.keyboard(set), [0xfa]);
    b
}

/// What comes out for a key's codes of set 2, without repeats.
fn sent(b: &mut Bench, codes: &[u8]) -> Vec<u8> {
    assert!(b.kbc.keys(codes, b.now));
    b.take()
}

impl Bench {
    /// Reads what is on its way, but lets no key repeat.
    fn take(&mut self) -> Vec<u8> {
        let end = self.now.after(100_000_000);
        self.bytes_until(end)
    }

    fn bytes_until(&mut self, end: Nanos) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(at) = self.kbc.next_event().filter(|&at| at <= end) {
            self.now = at;
            self.kbc.advance(at);
            while self.status().contains(Status::OBF) {
                bytes.push(self.read());
            }
        }
        self.now = end;
        bytes
    }
}

#[test]
fn the_three_sets_name_the_same_keys() {
    // Set 2 as told; press and release in sets 1, 2, 3. In set 3 all keys tell their releases here.
    type Codes = &'static [u8];
    let keys: [(Codes, Codes, Codes, Codes); 9] = [
        (&[0x1c], &[0x1e], &[0x1c], &[0x1c]),
        (&[0x76], &[0x01], &[0x76], &[0x08]),
        (&[0x83], &[0x41], &[0x83], &[0x37]),
        (&[0x14], &[0x1d], &[0x14], &[0x11]),
        (&[0x5d], &[0x2b], &[0x5d], &[0x5c]),
        (&[0x7c], &[0x37], &[0x7c], &[0x7e]),
        (&[0xe0, 0x75], &[0xe0, 0x48], &[0xe0, 0x75], &[0x63]),
        (&[0xe0, 0x4a], &[0xe0, 0x35], &[0xe0, 0x4a], &[0x77]),
        (&[0xe0, 0x14], &[0xe0, 0x1d], &[0xe0, 0x14], &[0x58]),
    ];
    for (told, one, two, three) in keys {
        for (set, press) in [(1, one), (2, two), (3, three)] {
            let mut b = in_set(set);
            assert_eq!(b.keyboard(0xfa), [0xfa], "all keys: all");
            assert_eq!(sent(&mut b, told), press, "set {set}");
            let (&code, prefixes) = press.split_last().unwrap();
            let mut release = prefixes.to_vec();
            if set == 1 {
                release.push(code | 0x80);
            } else {
                release.extend([0xf0, code]);
            }
            let mut told_release = told.to_vec();
            told_release.insert(told.len() - 1, 0xf0);
            assert_eq!(sent(&mut b, &told_release), release, "set {set}");
        }
    }
}

#[test]
fn pause_and_print_screen_are_odd() {
    let pause = [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77];
    let print = [0xe0, 0x12, 0xe0, 0x7c];
    let print_up = [0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12];
    let mut b = in_set(2);
    assert_eq!(sent(&mut b, &pause), pause);
    assert!(
        b.bytes_until(b.now.after(2_000_000_000)).is_empty(),
        "no repeat"
    );
    assert_eq!(sent(&mut b, &print), print);
    assert_eq!(sent(&mut b, &print_up), print_up);
    // Ctrl makes Pause to Break, Shift takes the made-up shift away, Alt makes SysRq.
    assert_eq!(sent(&mut b, &[0x14]), [0x14]);
    assert_eq!(sent(&mut b, &pause), [0xe0, 0x7e, 0xe0, 0xf0, 0x7e]);
    assert_eq!(sent(&mut b, &print), [0xe0, 0x7c]);
    assert_eq!(sent(&mut b, &[0xf0, 0x14]), [0xf0, 0x14]);
    assert_eq!(sent(&mut b, &[0x11]), [0x11]);
    assert_eq!(sent(&mut b, &print), [0x84]);
    assert_eq!(sent(&mut b, &print_up), [0xf0, 0x84]);

    let mut b = in_set(1);
    assert_eq!(sent(&mut b, &pause), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    assert_eq!(sent(&mut b, &print), [0xe0, 0x2a, 0xe0, 0x37]);
    assert_eq!(sent(&mut b, &print_up), [0xe0, 0xb7, 0xe0, 0xaa]);

    let mut b = in_set(3);
    assert_eq!(sent(&mut b, &pause), [0x62]);
    assert_eq!(sent(&mut b, &print), [0x57]);
    assert!(sent(&mut b, &print_up).is_empty(), "make only");
}

#[test]
fn set_3_has_manners() {
    let mut b = in_set(3);
    assert_eq!(sent(&mut b, &[0x1c]), [0x1c]);
    assert!(
        sent(&mut b, &[0xf0, 0x1c]).is_empty(),
        "letters are typematic only"
    );
    assert_eq!(sent(&mut b, &[0x12]), [0x12]);
    assert_eq!(
        sent(&mut b, &[0xf0, 0x12]),
        [0xf0, 0x12],
        "shift: make and break"
    );
    // FCh gives the keys of a list their releases, and takes their repeats.
    for byte in [0xfc, 0x1c, 0x32] {
        assert_eq!(b.keyboard(byte), [0xfa]);
    }
    assert_eq!(b.keyboard(device::ENABLE), [0xfa]);
    assert_eq!(sent(&mut b, &[0x1c]), [0x1c]);
    assert!(b.bytes_until(b.now.after(2_000_000_000)).is_empty());
    assert_eq!(sent(&mut b, &[0xf0, 0x1c]), [0xf0, 0x1c]);
    assert!(sent(&mut b, &[0x21, 0xf0, 0x21]) == [0x21], "others stay");
    assert_eq!(b.keyboard(0xf9), [0xfa], "all keys: make only");
    assert_eq!(sent(&mut b, &[0x12, 0xf0, 0x12]), [0x12]);
    assert_eq!(b.keyboard(device::SET_DEFAULTS), [0xfa]);
    assert_eq!(b.keyboard(0xf0), [0xfa]);
    assert_eq!(b.keyboard(0), [0xfa, 2], "set 2 is the default");
}

#[test]
fn a_key_that_is_held_repeats() {
    let mut b = in_set(2);
    // 500 ms, then 10.9 a second.
    assert!(b.kbc.keys(&[0x1c], b.now));
    let start = b.now;
    assert_eq!(b.bytes_until(start.after(499_000_000)), [0x1c]);
    assert_eq!(b.bytes_until(start.after(1_500_000_000)), [0x1c; 11]);
    // Another key takes over, and the first is forgotten.
    assert!(b.kbc.keys(&[0x32], b.now));
    let bytes = b.bytes_until(b.now.after(700_000_000));
    assert_eq!(bytes, [0x32; 4]);
    assert!(b.kbc.keys(&[0xf0, 0x1c], b.now));
    let bytes = b.bytes_until(b.now.after(200_000_000));
    assert!(
        bytes.starts_with(&[0xf0, 0x1c]) && bytes.contains(&0x32),
        "{bytes:x?}"
    );
    assert!(b.kbc.keys(&[0xf0, 0x32], b.now));
    assert_eq!(b.bytes_until(b.now.after(5_000_000_000)), [0xf0, 0x32]);
    assert_eq!(b.kbc.next_event(), None);
}

#[test]
fn rate_and_delay_of_the_repeat_can_be_set() {
    for (byte, delay, period) in [
        (0x00, 250, 33_333),
        (0x7f, 1000, 500_000),
        (0x20, 500, 33_333),
    ] {
        let mut b = in_set(2);
        assert_eq!(b.keyboard(device::SET_RATE), [0xfa]);
        assert_eq!(b.keyboard(byte), [0xfa]);
        let start = b.now;
        b.kbc.keys(&[0x1c], start);
        b.bytes_until(start.after(200_000_000));
        let first = b.kbc.next_event().unwrap();
        assert_eq!(first, start.after(delay * 1_000_000));
        b.kbc.advance(first);
        assert!(
            b.kbc
                .keyboard_repeats_at()
                .unwrap()
                .since(first)
                .abs_diff(period * 1000)
                < 1000
        );
    }
}

#[test]
fn a_guest_that_does_not_read_is_not_flooded() {
    let mut b = in_set(2);
    b.kbc.keys(&[0x1c], b.now);
    for _ in 0..200 {
        let at = b.kbc.next_event().unwrap();
        assert!(at > b.now);
        b.now = at;
        b.kbc.advance(at);
    }
    b.kbc.keys(&[0xf0, 0x1c], b.now);
    assert!(b.drain().len() <= 5);
}

#[test]
fn disabling_the_keyboard_lets_keys_go() {
    let mut b = in_set(2);
    b.kbc.keys(&[0x1c], b.now);
    b.take();
    assert_eq!(b.keyboard(device::DISABLE), [0xfa]);
    assert_eq!(b.kbc.next_event(), None);
    assert!(!b.kbc.keys(&[0x1c], b.now));
}
