//! Remote functions written by hand, and a session for each test: what the macros and `mobula::test` do for users.

use std::future::Future;

use mobula_actor::arbiters;
use mobula_actor::current::Frame;
use mobula_node::{Embedded, EmbeddedConfig};

/// Declares a remote function that is not async, and registers it.
#[macro_export]
macro_rules! function {
    ($name:ident($($arg:ident: $type:ty),*) -> Result<$reply:ty, $error:ty> $body:block) => {
        pub(crate) struct $name;

        impl ::mobula_node::RemoteFn for $name {
            type Args = ($($type,)*);
            type Reply = $reply;
            type Error = $error;
            const NAME: &'static str = concat!(module_path!(), "::", stringify!($name));
            const OPTIONS: ::mobula_node::TaskOptions = ::mobula_node::TaskOptions::new();
            const BODY: ::mobula_node::Body<Self> =
                ::mobula_node::Body::Sync(|($($arg,)*): Self::Args| -> Result<$reply, $error> { $body });
        }

        ::inventory::submit!(::mobula_node::FunctionEntry::value::<$name>());
    };
    ($name:ident($($arg:ident: $type:ty),*) -> $reply:ty $body:block) => {
        $crate::function!($name($($arg: $type),*) -> Result<$reply, ::mobula_types::NoError> { Ok($body) });
    };
}

/// Declares an async remote function, and registers it.
#[macro_export]
macro_rules! async_function {
    ($name:ident($($arg:ident: $type:ty),*) -> $reply:ty $body:block) => {
        pub(crate) struct $name;

        impl ::mobula_node::RemoteFn for $name {
            type Args = ($($type,)*);
            type Reply = $reply;
            type Error = ::mobula_types::NoError;
            const NAME: &'static str = concat!(module_path!(), "::", stringify!($name));
            const OPTIONS: ::mobula_node::TaskOptions = ::mobula_node::TaskOptions::new();
            const BODY: ::mobula_node::Body<Self> =
                ::mobula_node::Body::Async(|($($arg,)*): Self::Args| Box::pin(async move { Ok($body) }));
        }

        ::inventory::submit!(::mobula_node::FunctionEntry::value::<$name>());
    };
}

/// Runs `test` in a session of its own, plain and encoded, and checks that every task had one outcome.
pub(crate) fn in_session<F: Future<Output = ()>>(config: &EmbeddedConfig, test: impl Fn() -> F) {
    for encode_all in [false, true] {
        println!("encode_all = {encode_all}");
        let session = Embedded::start(&EmbeddedConfig { encode_all, ..config.clone() });
        let (driver, worker) = (session.driver().clone(), session.worker().clone());
        let mut frame = Frame { system: Some(driver.clone()), ..Frame::default() };
        arbiters::runtime().block_on(async {
            let mut running = std::pin::pin!(frame.enter(&test));
            std::future::poll_fn(|cx| frame.enter(|| running.as_mut().poll(cx))).await;
            session.stop().await;
        });
        for system in [&driver, &worker] {
            assert_eq!(system.counters().pending(), 0, "every task ends in exactly one outcome");
        }
        assert_eq!(driver.objects_exported() + worker.objects_exported(), 0, "no reference is left behind");
    }
}

/// Two compute threads, two arbiters.
pub(crate) fn two() -> EmbeddedConfig {
    EmbeddedConfig { arbiters: 2, compute_threads: 2, ..EmbeddedConfig::default() }
}
