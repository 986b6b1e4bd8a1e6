//! The result depends only on the configuration and the seed, never on the workers that compute it.

use crate::harness::{Fleet, Place, SMALL, assert_same_tensors, coordinator_at, reference};

/// Trains with workers that the coordinator starts.
fn spawned(workers: u32, flags: &str) -> Place {
    let place = Place::new();
    let flags = format!("{flags} --workers {workers} --spawn");
    coordinator_at(&place, &flags).wait().succeeded();
    place
}

#[track_caller]
fn assert_same(ours: &Place, theirs: &Place) {
    assert_eq!(ours.digest(), theirs.digest());
    assert_same_tensors(&ours.newest(), &theirs.newest());
}

fn one_to_four_workers_give_the_same_bits(collective: &str) {
    let flags = format!("{SMALL} --epochs 2 --collective {collective}");
    let places = [1, 2, 3, 4].map(|workers| spawned(workers, &flags));
    for place in &places {
        assert_same(place, &places[0]);
        assert_same_tensors(&place.newest(), &reference(2));
    }
}

#[test]
fn one_to_four_workers_give_the_same_bits_over_grpc() {
    one_to_four_workers_give_the_same_bits("grpc");
}

#[test]
fn one_to_four_workers_give_the_same_bits_through_shared_memory() {
    one_to_four_workers_give_the_same_bits("shm");
}

#[test]
fn one_to_three_workers_give_the_same_bits_in_bf16() {
    let flags = format!("{SMALL} --epochs 1 --precision bf16");
    let places = [1, 2, 3].map(|workers| spawned(workers, &flags));
    for place in &places {
        assert_same(place, &places[0]);
    }
    assert_ne!(places[0].newest().sha256, reference(1).sha256);
}

#[test]
fn the_same_command_gives_the_same_bits_and_another_seed_others() {
    let flags = format!("{SMALL} --epochs 1");
    let first = spawned(2, &flags);
    assert_same(&first, &spawned(2, &flags));
    let other = spawned(2, &flags.replace("--seed 7", "--seed 8"));
    assert_ne!(first.digest(), other.digest());
    assert_ne!(first.newest().sha256, other.newest().sha256);
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    for threads in [1, 2] {
        let place = Place::new();
        let flags = format!("{SMALL} --workers 2 --epochs 1");
        let mut fleet = Fleet::without_workers(&place, &flags);
        (0..2).for_each(|_| fleet.add(&format!("--threads {threads}")));
        fleet.completed();
        assert_same_tensors(&place.newest(), &reference(1));
    }
}

/// With the default network, libtorch would divide the work differently for each number of threads.
#[test]
fn threads_do_not_matter_at_full_size_either() {
    let places = [1, 2].map(|threads| {
        let place = Place::new();
        let flags = "--workers 1 --shards 2 --train-images 2000 --test-images 200 --epochs 1";
        let mut fleet = Fleet::without_workers(&place, flags);
        fleet.add(&format!("--threads {threads}"));
        fleet.completed();
        place
    });
    assert_same(&places[0], &places[1]);
}

#[test]
fn three_shards_of_a_gaussian_give_the_same_bits() {
    let flags = SMALL.replace("--shards 4", "--shards 3");
    let flags = format!("{flags} --epochs 1 --likelihood gaussian");
    let places = [1, 2, 3].map(|workers| spawned(workers, &flags));
    for place in &places {
        assert_same(place, &places[0]);
    }
}

#[test]
fn seven_shards_on_two_and_three_workers_give_the_same_bits() {
    let flags = SMALL.replace("--shards 4", "--shards 7");
    let flags = format!("{flags} --epochs 1");
    assert_same(&spawned(2, &flags), &spawned(3, &flags));
}
