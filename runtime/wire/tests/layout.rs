//! The layout of every message, held to the number of the protocol: two programs that speak the same number lay out the
//! same bytes.
//!
//! What derives its layout is described by [`mobula_wire::schema`]; what writes its own head is shown by a sample.

use bytes::Bytes;
use mobula_types::{ActorId, Attempt, Incarnation, NodeId, ProcessId};
use mobula_wire::cluster::{
    Admission, ClusterTalk, DetachedFrame, DriverWelcome, FromHead, Greeting, JobSetup, ToHead,
};
use mobula_wire::local::{FromNode, Hello, PeerHello, ToNode, Welcome};
use mobula_wire::schema::describe;
use mobula_wire::segments::{FromStore, ToStore};
use mobula_wire::{
    CallFrame, CallHeader, CodecId, FrameHead, FrameKind, PROTOCOL, Parcel, Part, RangeAsked, Talk, name_hash,
};

/// Every protocol and the hash of its layout, oldest first. A layout that has changed is another protocol: a line is added,
/// and only that of a number that was in no release may be replaced.
const PROTOCOLS: &[(u32, u64)] = &[(1, 0xc8d7_7fdc_f5b3_cfbb)];

#[test]
fn a_changed_layout_is_another_protocol() {
    assert!(PROTOCOLS.is_sorted_by(|before, after| before.0 < after.0), "each number stands for one layout");
    let layout = layout();
    let hash = name_hash(&layout);
    let known = PROTOCOLS.last().copied();
    assert!(
        known == Some((PROTOCOL, hash)),
        "the layout {hash:#018x} is not {known:x?}: raise PROTOCOL and add both here. It is\n{layout}"
    );
}

fn layout() -> String {
    let derived = [
        ("Greeting", describe::<Greeting>()),
        ("Admission", describe::<Admission>()),
        ("DriverWelcome", describe::<DriverWelcome>()),
        ("JobSetup", describe::<JobSetup>()),
        ("ClusterTalk", describe::<ClusterTalk>()),
        ("ToHead", describe::<ToHead>()),
        ("FromHead", describe::<FromHead>()),
        ("DetachedFrame", describe::<DetachedFrame>()),
        ("Hello", describe::<Hello>()),
        ("ToNode", describe::<ToNode>()),
        ("FromNode", describe::<FromNode>()),
        ("Welcome", describe::<Welcome>()),
        ("PeerHello", describe::<PeerHello>()),
        ("ToStore", describe::<ToStore>()),
        ("FromStore", describe::<FromStore>()),
        ("RangeAsked", describe::<RangeAsked>()),
        ("CallHeader", describe::<CallHeader>()),
        ("Talk", describe::<Talk>()),
    ];
    let derived = derived.into_iter().map(|(name, layout)| format!("{name}: {layout}\n"));
    let written = samples().into_iter().map(|(name, bytes)| format!("{name}: {bytes:02x?}\n"));
    derived.chain(written).collect()
}

fn samples() -> [(&'static str, Vec<u8>); 4] {
    let (to, from) = (ProcessId::new(NodeId(1), 2), ProcessId::new(NodeId(3), 4));
    let payload = Bytes::from_static(b"payload");
    let part = Part { to, from, transfer: 5, offset: 6, bytes: payload.clone() };
    let actor = ActorId { process: to, slot: 7, generation: 8 };
    let talk = Talk::Cancel { exchange: 15 };
    let parcel = Parcel { to, from, talk, payload: payload.clone() };
    let header = CallHeader {
        target: actor,
        incarnation: Some(Incarnation(9)),
        message: 10,
        schema: 11,
        left: None,
        attempt: Attempt::FIRST,
        crash_count: 1,
        sender: 12,
        seq: 14,
        after: 13,
    };
    let call = CallFrame { header, codec: CodecId::BINCODE_LEGACY, refs: Vec::new(), payload };
    let kinds = [FrameKind::Greeting, FrameKind::Parcel, FrameKind::Local, FrameKind::Cluster, FrameKind::Heartbeat];
    let heads = kinds.into_iter().chain([FrameKind::Part]).map(|kind| FrameHead { kind, body_bytes: 15 }.bytes());
    [
        ("Part", part.encode()),
        ("Parcel", parcel.encode().expect("it is small")),
        ("CallFrame", call.encode().expect("it is small")),
        ("FrameHead", heads.collect::<Vec<_>>().concat()),
    ]
}
