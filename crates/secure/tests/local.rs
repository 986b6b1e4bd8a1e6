//! Local sockets, with processes of other users at their ends.
#![allow(clippy::print_stdout, reason = "two processes talk through pipes")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    process::{Command, Stdio},
    time::Duration,
};

use secure::{Address, local};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

/// Any user but the one that the test runs as.
const STRANGER: u32 = 65_534;

/// The environment variable that makes a process the stranger.
const ROLE: &str = "LOCKSTEP_TEST_STRANGER";

const DEADLINE: Duration = Duration::from_secs(30);

fn address(host: &str) -> Address {
    // A port of this process alone, because another test may run beside this one.
    let port = u16::try_from(std::process::id() % 60_000 + 1).unwrap();
    Address::on(host, port).unwrap()
}

/// The name of a socket as `local` makes it, for a process that does not use `local`.
fn name(address: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("lockstep {address}")).unwrap()
}

async fn in_time<T>(task: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, task).await.expect("in time")
}

#[tokio::test]
async fn this_users_processes_reach_each_other_until_one_goes() {
    let at = address("own.invalid");
    let nobody = local::connect(&at).await.unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::ConnectionRefused);
    let listener = local::listen(&at).unwrap();
    assert!(local::listen(&at).is_err(), "a name is taken once");
    let mut incoming = local::incoming(listener);
    let mut client = local::connect(&at).await.unwrap();
    let mut server = in_time(incoming.next()).await.unwrap().unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    in_time(server.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop((server, incoming));
    assert_eq!(in_time(client.read(&mut heard)).await.unwrap(), 0);
    assert!(local::connect(&at).await.is_err(), "nothing is left behind");
}

#[tokio::test]
async fn processes_of_another_user_are_turned_away_at_both_ends() {
    if let Ok(port) = std::env::var(ROLE) {
        return stranger(&port);
    }
    if !rustix::process::geteuid().is_root() {
        let reason = "only root can start a process of another user";
        return left_out::note("local sockets and other users", reason);
    }
    let (own, theirs) = (address("door.invalid"), address("trap.invalid"));
    let mut incoming = local::incoming(local::listen(&own).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut process = Command::new(&program)
        .args(["--exact", "processes_of_another_user_are_turned_away_at_both_ends", "--nocapture"])
        .env(ROLE, own.port().to_string())
        .current_dir("/")
        .uid(STRANGER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut said = said.map(|line| line.unwrap());
    assert!(said.any(|line| line.contains("listening")), "the stranger begins");
    let trapped = local::connect(&theirs).await.unwrap_err();
    assert_eq!(trapped.kind(), std::io::ErrorKind::PermissionDenied, "{trapped}");
    drop(process.stdin.take());
    // The stranger's connection is closed at once, and there is no other connection.
    let gone = tokio::task::spawn_blocking(move || said.any(|line| line.contains("gone")));
    let let_go = in_time(async {
        tokio::select! {
            accepted = incoming.next() => panic!("{accepted:?} was let in"),
            gone = gone => gone.unwrap(),
        }
    });
    assert!(let_go.await, "the stranger was let go of");
    process.wait().unwrap();
}

/// The process of another user: it takes a name, and connects without a check of the other end.
fn stranger(port: &str) {
    let _trap = UnixListener::bind_addr(&name(&format!("trap.invalid:{port}"))).unwrap();
    println!("listening");
    let mut told = String::new();
    std::io::stdin().read_to_string(&mut told).unwrap();
    let mut door = UnixStream::connect_addr(&name(&format!("door.invalid:{port}"))).unwrap();
    door.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = door.read(&mut [0; 1]);
    assert!(matches!(heard, Ok(0)), "{heard:?}");
    println!("gone");
}
