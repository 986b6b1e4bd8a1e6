//! Kubeflow's status of a TrainJob: the leader posts the progress of the run to the URL in its
//! environment, and continues to train if the post fails.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use serde_json::Value;
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{
    harness::{DEADLINE, Place, SMALL, coordinator_at, worker_in},
    secured::host,
};

/// A request: its head and its body.
type Post = (String, Value);

/// Receives posts over TLS, like Kubeflow's controller.
fn controller(tls: &Path) -> (u16, mpsc::Receiver<Post>) {
    let chain = vec![CertificateDer::from_pem_file(tls.join("tls.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(tls.join("tls.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, posts) = mpsc::channel();
    // The thread ends with the process of the tests.
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let _ended = take_in(socket, Arc::clone(&config), &sender);
        }
    });
    (port, posts)
}

/// Reads a post, sends it to the test, and answers.
fn take_in(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    sender: &mpsc::Sender<Post>,
) -> Option<()> {
    socket.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, socket);
    let mut bytes = Vec::new();
    let post = loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_str(body) {
            break (head.to_lowercase(), body);
        }
    };
    // The worker may end as soon as it has the answer, and then the test looks.
    sender.send(post).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        .ok()?;
    stream.flush().ok()
}

fn environment(place: &Place, tls: &Path, port: u16) -> String {
    let token = place.path("kubeflow-token");
    fs::write(&token, "A-Token-Of-Kubeflow\n").unwrap();
    let (token, authority) = (token.display(), tls.join("ca.crt"));
    format!(
        "KUBEFLOW_TRAINER_SERVER_URL=https://localhost:{port}/trainjobs/lockstep-workers/status \
         KUBEFLOW_TRAINER_SERVER_TOKEN={token} KUBEFLOW_TRAINER_SERVER_CA_CERT={}",
        authority.display()
    )
}

#[test]
fn the_leader_posts_the_status_of_a_trainjob() {
    let place = Place::new();
    let tls = host(&place, "kubeflow");
    let (port, posts) = controller(&tls);
    let environment = environment(&place, &tls, port);
    let coordinator = coordinator_at(&place, &format!("{SMALL} --epochs 3 --workers 2"));
    let line = coordinator.wait_for_line("Listening on ");
    let flags = format!("--threads 1 --coordinator {}", line.rsplit(' ').next().unwrap());
    let workers = [worker_in(&environment, &flags), worker_in(&environment, &flags)];
    workers.into_iter().for_each(|worker| drop(worker.wait().succeeded()));
    coordinator.wait().succeeded();
    let posts: Vec<Post> = posts.try_iter().collect();
    let percent = |(_, body): &Post| body["trainerStatus"]["progressPercentage"].as_u64().unwrap();
    let (first, last) = (posts.first().unwrap(), posts.last().unwrap());
    let (head, body) = first;
    assert!(head.starts_with("post /trainjobs/lockstep-workers/status http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer a-token-of-kubeflow"), "{head}");
    assert_eq!(body["trainerStatus"]["metrics"][0]["name"], "loss");
    assert_eq!(percent(last), 100, "{posts:?}");
    assert!(posts.iter().map(percent).is_sorted(), "one of them posts: {posts:?}");
}

#[test]
fn nobody_who_listens_is_no_reason_to_stop() {
    let place = Place::new();
    let [ours, theirs] = ["kubeflow", "other"].map(|authority| host(&place, authority));
    // The controller's certificate is of another authority than the one in the environment.
    let (port, posts) = controller(&theirs);
    let environment = environment(&place, &ours, port);
    let coordinator = coordinator_at(&place, &format!("{SMALL} --epochs 2 --workers 1"));
    let line = coordinator.wait_for_line("Listening on ");
    let flags = format!("--threads 1 --coordinator {}", line.rsplit(' ').next().unwrap());
    let exit = worker_in(&environment, &flags).wait().succeeded();
    assert!(exit.text().contains("cannot post the status to https://localhost"), "{exit}");
    assert!(!exit.text().contains("A-Token"), "{exit}");
    coordinator.wait().succeeded();
    assert!(posts.try_iter().next().is_none());
}
