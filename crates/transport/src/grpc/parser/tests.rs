//! The parser gives the same frames as the generated code, however a stream is cut.

use bytes::BytesMut;
use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};
use protocol::wire::{Chunk, PeerHello, RoundHeader, frame::Body};

use super::{
    super::frames::{put_chunk_head, put_message},
    *,
};

/// The frames of a stream, with chunks put together again.
fn frames(stream: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, Malformed> {
    let mut parser = Parser::new();
    let mut stream = Bytes::copy_from_slice(stream);
    let mut frames = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !stream.is_empty() {
        let cut = cuts.next().copied().unwrap_or(usize::MAX).min(stream.len());
        let mut input = stream.split_to(cut);
        while let Some(event) = parser.next(&mut input)? {
            take(event, &mut frames);
        }
        assert!(input.is_empty(), "no event, but input is left");
    }
    Ok(frames)
}

fn take(event: Event, frames: &mut Vec<Frame>) {
    match event {
        Event::Frame(frame) => frames.push(frame),
        Event::Chunk(ChunkHead { piece, offset, bytes }) => {
            assert!(bytes > 0);
            let chunk = Chunk { offset, ..Chunk::default() };
            let body = match piece {
                Piece::Partial(node) => Body::Partial(Chunk { node, ..chunk }),
                Piece::Sum => Body::Sum(chunk),
            };
            frames.push(Frame { body: Some(body) });
        }
        Event::Values(values) => {
            let body = frames.last_mut().and_then(|frame| frame.body.as_mut());
            let (Some(Body::Partial(chunk)) | Some(Body::Sum(chunk))) = body else {
                panic!("values of no chunk");
            };
            chunk.values = [&chunk.values[..], &values].concat().into();
        }
    }
}

fn whole(frame: &Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_message(&mut bytes, frame);
    bytes.into()
}

/// A chunk as this build sends it.
fn chunk(piece: Piece, offset: u32, floats: usize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_chunk_head(&mut bytes, piece, offset as usize, floats);
    bytes.extend((0..floats * 4).map(|byte| byte as u8));
    bytes.into()
}

/// A message whose protobuf is `fields`.
fn message(fields: &[u8]) -> Vec<u8> {
    let length = u32::try_from(fields.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], fields].concat()
}

fn length_delimited(key: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(key, WireType::LengthDelimited, &mut bytes);
    encode_varint(content.len() as u64, &mut bytes);
    [&bytes, content].concat()
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<u64>(), any::<u32>()).prop_map(|(step, control)| {
        let header =
            RoundHeader { step, control, digest: vec![7; 16].into(), ..Default::default() };
        whole(&Frame { body: Some(Body::Header(header)) })
    });
    let hello = any::<u64>().prop_map(|generation| {
        let hello =
            PeerHello { run_id: "run".into(), generation, rank: 3, secret: vec![5; 32].into() };
        whole(&Frame { body: Some(Body::Hello(hello)) })
    });
    let generated = (any::<bool>(), 0..3_u32, 0..3_u32, 0..300_usize).prop_map(|chunk| {
        let (is_sum, node, offset, bytes) = chunk;
        let node = if is_sum { 0 } else { node };
        let chunk = Chunk { node, offset, values: vec![9; bytes].into() };
        let body = if is_sum { Body::Sum(chunk) } else { Body::Partial(chunk) };
        whole(&Frame { body: Some(body) })
    });
    let piece = prop_oneof![any::<u32>().prop_map(Piece::Partial), Just(Piece::Sum)];
    let sent = (piece, any::<u32>(), 1..100_usize)
        .prop_map(|(piece, offset, floats)| chunk(piece, offset, floats));
    prop_oneof![header, hello, generated, sent, Just(message(&[]))]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        prop::collection::vec(1..8_usize, 1..20),
        prop::collection::vec(1..500_usize, 1..20),
    ]
}

proptest! {
    #[test]
    fn any_cut_of_a_stream_gives_the_frames_that_the_generated_code_reads(
        messages in prop::collection::vec(any_frame(), 1..8),
        cuts in cuts(),
    ) {
        let expected: Vec<Frame> =
            messages.iter().map(|message| Frame::decode(&message[PREFIX_BYTES..]).unwrap()).collect();
        let stream = messages.concat();
        prop_assert_eq!(frames(&stream, &cuts), Ok(expected.clone()));
        prop_assert_eq!(frames(&stream, &[usize::MAX]), Ok(expected));
    }

    #[test]
    fn any_bytes_end_in_frames_or_an_error(
        stream in prop::collection::vec(any::<u8>(), 0..2_000),
        cuts in cuts(),
    ) {
        let whole = frames(&stream, &[usize::MAX]);
        prop_assert_eq!(frames(&stream, &cuts), whole);
    }

    /// Short lengths, so that the bytes behind a prefix are read as protobuf.
    #[test]
    fn any_bytes_in_a_message_are_read_as_the_generated_code_reads_them(
        start in prop::sample::select(vec![key::PARTIAL, key::SUM, 10, 18]),
        fields in prop::collection::vec(any::<u8>(), 0..80),
        cuts in cuts(),
    ) {
        let fields = [&[start, u8::try_from(fields.len()).unwrap()], &fields[..]].concat();
        let read = frames(&message(&fields), &cuts).ok();
        prop_assert_eq!(read, Frame::decode(&fields[..]).ok().map(|frame| vec![frame]));
    }

    #[test]
    fn a_damaged_stream_ends_in_frames_or_an_error(
        messages in prop::collection::vec(any_frame(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cuts in cuts(),
    ) {
        let mut stream = messages.concat();
        for (index, byte) in damage {
            let index = index.index(stream.len());
            stream[index] = byte;
        }
        prop_assert_eq!(frames(&stream, &cuts), frames(&stream, &[usize::MAX]));
    }
}

#[test]
fn fields_in_any_order_and_unknown_ones_are_read_as_protobuf_demands() {
    let (node, offset) = ([key::NODE, 5, 0, 0, 0], [key::OFFSET, 6, 0, 0, 0]);
    let values = length_delimited(3, &[1, 2, 3, 4]);
    let unknown = length_delimited(90, b"from a later version");
    let expected = Chunk { node: 5, offset: 6, values: vec![1, 2, 3, 4].into() };
    let orders: [&[&[u8]]; 5] = [
        &[&offset, &node, &values],
        &[&values, &node, &offset],
        &[&unknown, &node, &offset, &values],
        &[&node, &offset, &values, &unknown],
        &[&values, &values, &offset, &node, &node],
    ];
    for order in orders {
        let chunk = length_delimited(3, &order.concat());
        let partial = Frame { body: Some(Body::Partial(expected.clone())) };
        for fields in [chunk.clone(), [&unknown[..], &chunk].concat()] {
            assert_eq!(frames(&message(&fields), &[3]), Ok(vec![partial.clone()]), "{order:?}");
        }
    }
}

#[test]
fn a_chunk_is_handed_on_before_it_is_complete() {
    let stream = chunk(Piece::Partial(2), 40, 1000);
    let mut parser = Parser::<Frame>::new();
    let mut input = Bytes::from(stream).slice(..100);
    let head = ChunkHead { piece: Piece::Partial(2), offset: 40, bytes: 4000 };
    assert!(matches!(parser.next(&mut input), Ok(Some(Event::Chunk(read))) if read == head));
    assert!(matches!(parser.next(&mut input), Ok(Some(Event::Values(some))) if !some.is_empty()));
    assert!(matches!(parser.next(&mut input), Ok(None)));
}

#[test]
fn what_is_too_long_or_compressed_is_refused_at_its_prefix() {
    let long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let error = frames(&[&[0], &long[..]].concat(), &[1]).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
    let error = frames(&[1, 0, 0, 0, 1, 0], &[6]).unwrap_err();
    assert!(error.to_string().contains("compressed"), "{error}");
}
