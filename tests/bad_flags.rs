//! Wrong flags: one line names the flag and says what to do instead.

use std::{net::TcpListener, path::Path};

use crate::harness::{Fleet, Place, SMALL, coordinator, coordinator_at, free_address, worker};

#[test]
fn numbers_out_of_range() {
    let place = Place::new();
    let cases = [
        ("--workers 0", "from 1 to 4096"),
        ("--workers 1000000", "from 1 to 4096"),
        ("--workers 4294967296", "4294967296"),
        ("--workers -1", "-1"),
        ("--workers four", "four"),
        ("--workers 3 --shards 2", "raise --shards or lower --workers"),
        ("--shards 0", "from 1 to 4096"),
        ("--shards 99999", "from 1 to 4096"),
        ("--epochs 0", "from 1 to 1000000"),
        ("--board localhost:0", "an IP address and a port are needed"),
        ("--epochs 4000000000", "from 1 to 1000000"),
        ("--batch-size 0", "from 1 to 1048576"),
        ("--batch-size 1048577", "from 1 to 1048576"),
        ("--hidden-dim 0", "from 1 to 65536"),
        ("--hidden-dim 4294967295", "from 1 to 65536"),
        ("--latent-dim 0", "from 1 to 65536"),
        ("--latent-dim 99999999", "from 1 to 65536"),
        ("--train-examples 0", "from 1 to"),
        ("--train-examples 60001", "more than the data set mnist has: 60000"),
        ("--test-examples 0", "from 1 to"),
        ("--test-examples 10001", "more than the data set mnist has: 10000"),
        ("--validation-examples 60000", "leaves nothing to learn from"),
        ("--early-stop-epochs 3", "--early-stop-epochs needs --validation-examples"),
        ("--keep-best", "--keep-best needs --validation-examples"),
        ("--checkpoint-every-epochs 0", "from 1 to 1000000"),
        ("--keep-checkpoints 0", "from 1 to 1000000"),
        ("--verify-every -1", "-1"),
        ("--learning-rate -1e-3", "'-1e-3' for '--learning-rate"),
        ("--max-restarts -1", "from 0 to"),
        ("--min-workers 0", "from 1 to 4096"),
        ("--workers --spawn", "'--spawn' for '--workers"),
        ("--worker-threads 0 --spawn", "from 1 to 1024"),
        ("--worker-threads 2", "--spawn"),
        ("--worker-device gpu --spawn", "choose auto, cpu, cuda or cuda:N"),
        ("--seed -1", "-1"),
        ("--seed 18446744073709551616", "18446744073709551616"),
        ("--learning-rate 0", "positive"),
        ("--learning-rate nan", "positive"),
        ("--learning-rate inf", "positive"),
        ("--beta -0.5", "not negative"),
        ("--beta nan", "not negative"),
        ("--dead-after-seconds 0", "from 0.5 to 86400"),
        ("--dead-after-seconds nan", "from 0.5 to 86400"),
        ("--join-timeout-seconds 1e300", "from 0.5 to 86400"),
        ("--likelihood poisson", "poisson"),
        ("--binarize twice", "twice"),
        ("--importance-samples 0", "from 1 to 4096"),
        ("--learning-rate-schedule steep", "steep"),
        ("--kl-warmup-epochs 4000000000", "from 0 to 1000000"),
        ("--grad-clip 0", "positive"),
        ("--grad-clip nan", "positive"),
        ("--collective pigeon", "pigeon"),
    ];
    for (flags, words) in cases {
        let flag = flags.split(' ').next().unwrap();
        coordinator_at(&place, flags).wait().failed_with(&[flag, words]);
    }
    assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
}

#[test]
fn sizes_that_do_not_fit_into_memory() {
    let place = Place::new();
    let words = ["memory", "lower --batch-size"];
    coordinator_at(&place, "--workers 1 --hidden-dim 65536").wait().failed_with(&words);
    let many = "--workers 4096 --batch-size 60000 --spawn";
    coordinator_at(&place, many).wait().failed_with(&words);
}

#[test]
fn an_address_that_others_could_reach() {
    let place = Place::new();
    coordinator(&place, "--listen nowhere").wait().failed_with(&["--listen", "nowhere"]);
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"] {
        let flags = format!("--listen {listen}");
        coordinator(&place, &flags).wait().failed_with(&[listen, "loopback", "127.0.0.1"]);
    }
    // An allowed address that is no address of this machine.
    let words = ["cannot listen on 192.0.2.77:50051"];
    let asked = coordinator(&place, "--insecure --listen 192.0.2.77:50051").wait();
    let warning = "--insecure: listen and connect beyond loopback without TLS and token";
    assert!(asked.failed_with(&words).text().contains(warning));
}

#[test]
fn a_port_that_is_taken() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let words = [&address[..], "cannot listen", "choose another --listen"];
    coordinator(&place, &format!("--listen {address}")).wait().failed_with(&words);
}

#[test]
fn a_coordinator_that_is_no_url() {
    for url in ["http://", "https://127.0.0.1:1", "ftp://x:1", "", "two words", ":50051"] {
        worker(url, "").wait().failed_with(&["--coordinator", "http://127.0.0.1:50051"]);
    }
}

#[test]
fn a_coordinator_that_cannot_be_reached() {
    let url = format!("http://{}", free_address());
    let exit = worker(&url, "--join-timeout-seconds 1").wait();
    let exit = exit.failed_with(&[&url, "within 1 s", "start vae-coordinator"]);
    let countdown = |line: &str| line.contains("waiting for a coordinator") && line.contains(&url);
    assert!(exit.lines().any(countdown), "{exit}");
}

#[test]
fn numbers_out_of_range_for_a_worker() {
    for flags in ["--threads 0", "--threads -1", "--rank -1", "--join-timeout-seconds soon"] {
        let flag = flags.split(' ').next().unwrap();
        worker("http://127.0.0.1:1", flags).wait().failed_with(&[flag]);
    }
}

#[test]
fn a_device_that_is_not_there() {
    for device in ["abacus", "cuda:many", "cuda:-1"] {
        let words = ["--device", device, "auto, cpu, cuda or cuda:N"];
        worker("http://127.0.0.1:1", &format!("--device {device}")).wait().failed_with(&words);
    }
    let device = if Path::new("/dev/nvidia0").exists() { "cuda:99" } else { "cuda" };
    let words = ["--device cuda:", "use --device cpu"];
    worker("http://127.0.0.1:1", &format!("--device {device}")).wait().failed_with(&words);
}

#[test]
fn nccl_without_gpus_or_without_a_word_on_its_open_ports() {
    let place = Place::new();
    let words = ["--collective nccl", "--insecure", "--collective auto"];
    coordinator_at(&place, "--collective nccl --spawn").wait().failed_with(&words);
    let flags = format!("{SMALL} --workers 1 --collective nccl --insecure");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fleet.add("--device cpu");
    let (coordinator, workers) = fleet.wait();
    let words = ["--collective nccl", "a GPU for each worker", "--collective auto"];
    coordinator.failed_with(&words);
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
}

#[test]
fn a_learning_rate_that_destroys_the_model() {
    let place = Place::new();
    let flags = "--workers 2 --spawn --epochs 3 --train-images 600 --test-images 20 \
                 --hidden-dim 8 --latent-dim 2 --learning-rate 1e30";
    let words = ["not finite", "lower --learning-rate"];
    coordinator_at(&place, flags).wait().failed_with(&words);
}

/// The only step of this run computes its loss before the update destroys the model.
#[test]
fn a_learning_rate_that_destroys_the_model_in_the_last_step() {
    let place = Place::new();
    let flags = "--workers 1 --spawn --epochs 1 --train-images 60 --test-images 20 \
                 --hidden-dim 8 --latent-dim 2 --learning-rate 1e30";
    let words = ["not finite", "lower --learning-rate"];
    coordinator_at(&place, flags).wait().failed_with(&words);
    assert!(!place.file("summary.json").exists());
}
