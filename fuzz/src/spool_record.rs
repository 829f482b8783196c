//! Records and frames of any bytes.
//!
//! Promises: what is read is written so that it reads the same; what is found in a batch lies in it; any bytes do.

use onetrip::proto::message::Message;
use onetrip::spool::Place;
use onetrip::spool::frame::{
    BATCH_HEADER_BYTES, BatchHeader, Item, RECORD_HEADER_BYTES, Records, SegmentHeader, append, read, seal,
};
use onetrip::spool::record::{
    Head, Record, kind, write_disowned, write_done, write_message, write_part, write_progress, write_token,
};

use crate::input::Input;

/// See the [module](self). The first byte is the kind.
pub fn check(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else {
        return;
    };
    check_record(*kind, payload);
    check_frame(*kind, payload);
    check_batch(data);
    let _ = SegmentHeader::decode(data);
    let _ = read(data, 0, 0);
}

fn check_record(kind: u8, payload: &[u8]) {
    let Some(record) = Record::decode(kind, payload) else {
        return;
    };
    let (kind, written) = write(&record);
    let again = Record::decode(kind, &written).expect("what was written is read");
    assert_eq!(write(&again), (kind, written), "a record changes when it is written again");
}

fn write(record: &Record<'_>) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    let kind = match record {
        Record::Message(head) => {
            let message = message(head);
            write_message(&message, head.parts, head.part_bytes, head.content, &mut out);
            kind::MESSAGE
        }
        Record::Part { id, index, bytes } => {
            write_part(*id, *index, bytes, &mut out);
            kind::PART
        }
        Record::Progress(progress) => {
            write_progress(progress, &mut out);
            kind::PROGRESS
        }
        Record::Done(id) => {
            write_done(*id, &mut out);
            kind::DONE
        }
        Record::Token(token) => {
            let received = token.id.received();
            assert!(received.as_micros() < 1 << 55);
            write_token(*token, &mut out);
            kind::TOKEN
        }
        Record::Disowned(id) => {
            write_disowned(*id, &mut out);
            kind::DISOWNED
        }
        Record::Nothing => kind::NOTHING,
    };
    (kind, out)
}

fn message(head: &Head<'_>) -> Box<Message> {
    let message = head.to_message();
    assert_eq!((message.id, &message.trace[..], &message.content[..]), (head.id, head.trace, head.content));
    let _ = head.size();
    let recipients =
        |envelope: &onetrip::proto::envelope::Envelope| format!("{:?}", envelope.recipients().collect::<Vec<_>>());
    assert_eq!(recipients(&message.envelope), recipients(&head.envelope));
    message
}

/// A record that was framed is found again, and alone.
fn check_frame(kind: u8, payload: &[u8]) {
    let place = Place { segment: 7, offset: 4_096 };
    let mut batch = Vec::new();
    for _ in 0..2 {
        append(&mut batch, kind, |out| out.extend_from_slice(payload));
    }
    seal(&mut batch, BatchHeader { number: 1, seed: 9, place, committed: place, bytes: 0 });
    let header = BatchHeader::decode(&batch, place).expect("a batch that was sealed");
    let items: Vec<_> = Records::new(&batch, header).collect();
    assert_eq!(items.len(), 2);
    for item in items {
        let Item::Record(frame) = item else { panic!("a whole record is damage") };
        assert_eq!((frame.kind, frame.payload), (kind, payload));
        assert!(frame.bytes() >= RECORD_HEADER_BYTES + payload.len());
    }
}

/// The records of any bytes, under a header of any values.
fn check_batch(data: &[u8]) {
    let mut input = Input::new(data);
    let place = Place { segment: 1, offset: input.word() };
    let header = BatchHeader { number: 1, seed: 0, place, committed: place, bytes: input.word() };
    let bytes = input.rest();
    if let Some(found) = BatchHeader::decode(bytes, place) {
        assert_eq!(found.place, place);
    }
    if u64::from(place.offset) + header.whole_bytes() > u64::from(u32::MAX) {
        // No header that was read says so.
        return;
    }
    let mut before = place.offset;
    for item in Records::new(bytes, header).take(4 * BATCH_HEADER_BYTES) {
        let range = match item {
            Item::Record(frame) => frame.offset..frame.offset + frame.bytes() as u32,
            Item::Damage(range) => range,
        };
        assert!(range.start >= before && range.end > range.start, "records that overlap");
        before = range.end;
    }
}
