//! A signal ends a server with code 0, its port is free again, and nothing of it is left.

use std::net::{TcpListener, TcpStream};

use crate::program::Server;

#[test]
fn signals_stop_a_server_and_all_that_belongs_to_it() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&["--tensor-parallel-size", "2"]);
        let address = server.address.clone();
        // An idle connection holds nothing up.
        let idle = TcpStream::connect(&address).unwrap();
        server.signal(signal);
        let (status, more) = server.wait();
        assert_eq!((status.code(), more), (Some(0), Vec::new()), "SIG{signal}");
        drop(idle);
        assert!(TcpStream::connect(&address).is_err(), "somebody listens still");
        drop(TcpListener::bind(&address).expect("the port is free again"));
    }
}
