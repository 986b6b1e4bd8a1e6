//! Carries out a disaster on a run, and waits until the run has noticed it.

use rustix::process::Signal;

use super::Disaster;
use crate::{
    harness::{Fleet, Host, Lost, Place, Process},
    kill_coordinator::replaced,
};

/// Carries out the disaster; returns the fleet with the remaining and the new processes.
pub(super) fn strike(disaster: Disaster, place: &Place, mut fleet: Fleet) -> Fleet {
    match disaster {
        Disaster::Kill(victim) => {
            fleet.workers.remove(victim).signal(Signal::KILL);
            newcomers(&mut fleet, 1);
        }
        Disaster::KillTwo(first, second) => {
            let victims = [fleet.workers.remove(first), fleet.workers.remove(second)];
            victims.iter().for_each(|victim| victim.signal(Signal::KILL));
            newcomers(&mut fleet, 2);
        }
        Disaster::Freeze(victim) => given_up_and_back(
            place,
            &mut fleet,
            victim,
            |worker| worker.signal(Signal::STOP),
            |worker| worker.signal(Signal::CONT),
        ),
        Disaster::Leave(victim) => {
            let victim = fleet.workers.remove(victim);
            victim.signal(Signal::TERM);
            victim.wait().exited_with(143);
            newcomers(&mut fleet, 1);
        }
        Disaster::Spare => {
            fleet.add("--threads 1");
            let spare = fleet.workers.pop().unwrap();
            spare.wait_for_line("joined as");
            spare.signal(Signal::KILL);
        }
        Disaster::Coordinator => {
            let returned = returned(place) + fleet.workers.len();
            fleet = replaced(place, fleet, |_| {});
            wait_for_return(place, &mut fleet, returned);
        }
        Disaster::CoordinatorAndWorker(victim) => {
            let returned = returned(place) + fleet.workers.len() - 1;
            fleet = replaced(place, fleet, |fleet| {
                let victim = fleet.workers.remove(victim);
                victim.signal(Signal::KILL);
                victim.wait();
            });
            wait_for_return(place, &mut fleet, returned);
            newcomers(&mut fleet, 1);
        }
        link => strike_link(link, place, &mut fleet),
    }
    fleet
}

fn strike_link(disaster: Disaster, place: &Place, fleet: &mut Fleet) {
    match disaster {
        Disaster::CutOff(victim) => given_up_and_back(
            place,
            fleet,
            victim,
            |worker| host(worker).cut_off(Lost::Both),
            |worker| host(worker).heal(),
        ),
        Disaster::Mute(victim) => given_up_and_back(
            place,
            fleet,
            victim,
            |worker| host(worker).cut_off(Lost::Sent),
            |worker| host(worker).heal(),
        ),
        Disaster::CutBetween(one, other) => {
            let ended = place.events("generation_ended").len();
            host(&fleet.workers[one]).cut_from(host(&fleet.workers[other]));
            fleet.wait_for_event(place, "generation_ended", ended + 1);
            host(&fleet.workers[one]).heal();
        }
        Disaster::Slow(slow) => {
            host(&fleet.workers[slow]).slow_down();
            fleet.wait_for_progress(place);
            host(&fleet.workers[slow]).speed_up();
        }
        Disaster::CoordinatorCutOff => {
            let lost = place.events("lost").len() + fleet.workers.len();
            host(&fleet.coordinator).cut_off(Lost::Both);
            fleet.wait_for_event(place, "lost", lost);
            let joined = place.events("joined").len() + fleet.workers.len();
            host(&fleet.coordinator).heal();
            fleet.wait_for_event(place, "joined", joined);
        }
        Disaster::SlowAndKill(slow, victim) => {
            host(&fleet.workers[slow]).slow_down();
            let slow = host(&fleet.workers[slow]).clone();
            fleet.workers.remove(victim).signal(Signal::KILL);
            newcomers(fleet, 1);
            slow.speed_up();
        }
        processes => panic!("{processes:?} strikes no link"),
    }
}

/// How often a worker has come, or come back to a restarted coordinator.
fn returned(place: &Place) -> usize {
    place.events("adopted").len() + place.events("joined").len()
}

/// Waits until a restarted coordinator has all its workers. One that is struck before is not missed.
fn wait_for_return(place: &Place, fleet: &mut Fleet, times: usize) {
    fleet.coordinator.wait_until("all are back", || returned(place) >= times);
}

fn host(process: &Process) -> &Host {
    process.host().expect("a host of its own")
}

/// Waits until a worker is evicted because of `strike`, then until it joins again after `heal`.
fn given_up_and_back(
    place: &Place,
    fleet: &mut Fleet,
    victim: usize,
    strike: impl FnOnce(&Process),
    heal: impl FnOnce(&Process),
) {
    let lost = place.events("lost").len();
    strike(&fleet.workers[victim]);
    fleet.wait_for_event(place, "lost", lost + 1);
    let joined = place.events("joined").len();
    heal(&fleet.workers[victim]);
    fleet.wait_for_event(place, "joined", joined + 1);
}

/// Starts workers, and waits until they train.
pub(super) fn newcomers(fleet: &mut Fleet, count: usize) {
    let before = fleet.workers.len();
    (0..count).for_each(|_| fleet.add("--threads 1"));
    for newcomer in &fleet.workers[before..] {
        newcomer.wait_for_line("training rank=");
    }
}
