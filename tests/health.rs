//! The standard gRPC services for container platforms and monitors: health and reflection.

use rustix::process::Signal;
use tokio::{runtime::Runtime, time::timeout};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{DEADLINE, ENDLESS, Fleet, Place, SMALL, coordinator, wait_until};

const COORDINATOR: &str = "lockstep.v1.Coordinator";
const TRAINING: &str = "lockstep.v1.Training";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

fn status(runtime: &Runtime, url: &str, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: service.into() };
    runtime.block_on(async {
        let mut client = HealthClient::new(connect(url).await);
        let answer = timeout(DEADLINE, client.check(request)).await.expect("an answer");
        answer.ok().map(|answer| answer.into_inner().status())
    })
}

#[test]
fn health_follows_the_run() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} --workers 1"));
    let runtime = runtime();
    let is = |service: &str, expected: ServingStatus, url: &str| {
        status(&runtime, url, service) == Some(expected)
    };
    let url = fleet.url.clone();
    wait_until("the coordinator serves", || is(COORDINATOR, ServingStatus::Serving, &url));
    assert!(is("", ServingStatus::Serving, &url));
    assert!(is(TRAINING, ServingStatus::NotServing, &url));
    assert_eq!(status(&runtime, &url, "another"), None);
    let probe = |whose: &str| coordinator(&place, &format!("status --coordinator {url} {whose}"));
    assert!(probe("--health").wait().succeeded().text().contains("serving"));
    probe("--health=training").wait().failed_with(&[TRAINING, "is not serving"]);

    fleet.add("--threads 1");
    fleet.wait_for_progress(&place);
    wait_until("the run trains", || is(TRAINING, ServingStatus::Serving, &url));
    probe("--health=training").wait().succeeded();
    fleet.workers[0].signal(Signal::KILL);
    wait_until("nobody trains", || is(TRAINING, ServingStatus::NotServing, &url));
    assert!(is(COORDINATOR, ServingStatus::Serving, &url));
    fleet.coordinator.signal(Signal::TERM);
    fleet.coordinator.wait().exited_with(143);
    probe("--health").wait().failed_with(&["no coordinator answers"]);
}

#[test]
fn the_server_says_what_it_can_be_asked() {
    let place = Place::new();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1"));
    let ask =
        |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("lockstep.v1.WorkerMessage".into())),
    ];
    let answers = runtime().block_on(async {
        let mut client = ServerReflectionClient::new(connect(&fleet.url).await);
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
        let answers = answers.into_inner().map(|answer| answer.unwrap().message_response.unwrap());
        timeout(DEADLINE, answers.collect::<Vec<_>>()).await.expect("answers")
    });
    let [
        MessageResponse::ListServicesResponse(list),
        MessageResponse::FileDescriptorResponse(file),
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| &service.name[..]).collect();
    assert!(names.contains(&COORDINATOR) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    assert!(!file.file_descriptor_proto.is_empty());
}
