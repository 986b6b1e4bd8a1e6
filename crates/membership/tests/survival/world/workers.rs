//! The workers of the model: their reactions to commands and to lost connections.

use super::*;

impl World {
    pub(super) fn handle(&mut self, process: Process, id: WorkerId, command: Command) {
        let worker = &mut self.workers[process];
        match command {
            Command::Admit(_, rank) => {
                worker.rank = rank;
                if !worker.is_known {
                    worker.step = self.checkpoint;
                }
                self.admitted(process, id);
            }
            Command::Adopt(_, rank) => {
                worker.rank = Some(rank);
                self.admitted(process, id);
            }
            Command::Start(generation, members) => {
                assert_eq!(worker.task, Task::Idle, "{process} is told to start {generation}");
                let own = members.iter().find(|member| member.worker == id).unwrap();
                worker.rank = Some(own.rank);
                worker.task = Task::Computing(generation);
                worker.has_strayed = false;
                let done = worker.step;
                self.did_step(process, generation, done);
            }
            Command::Pause(generation, _) if worker.task == Task::Computing(generation) => {
                let round = self.rounds.get_mut(&generation).unwrap();
                let next = round.members.values().filter_map(|part| part.done).max().unwrap() + 1;
                round.pause_after = Some(round.pause_after.map_or(next, |step| step.min(next)));
            }
            Command::Abort(generation, _) if worker.task == Task::Computing(generation) => {
                self.interrupt(process);
            }
            Command::Pause(..) | Command::Abort(..) => {}
            Command::Fetch { donor, .. } => {
                assert_eq!(worker.task, Task::Idle, "{process} is told to fetch");
                let donor = self.links.get(&donor).map(|link| link.worker);
                // If the donor is gone, the fetch fails; the worker itself stands for that donor.
                worker.task = Task::Fetching(donor.unwrap_or(process));
            }
            Command::Persist(_) => {
                assert_eq!(worker.task, Task::Idle, "{process} is told to save");
                self.checkpoint = self.checkpoint.max(worker.step);
                self.say(process, Event::Saved(id));
            }
            Command::Evict(..) => {
                if matches!(worker.task, Task::Computing(_)) {
                    self.interrupt(process);
                }
                self.disconnect(process);
            }
            Command::Refuse(..) | Command::Dismiss(_) => self.exit(process),
            Command::Wait { .. } | Command::Finish(_) => {}
        }
    }

    pub(super) fn admitted(&mut self, process: Process, id: WorkerId) {
        self.links.get_mut(&id).unwrap().is_admitted = true;
        self.workers[process].is_known = true;
        if self.workers[process].task == Task::Idle {
            self.say_ready(process);
        }
    }

    pub(super) fn finish_step(&mut self, process: Process) {
        let worker = &mut self.workers[process];
        let Task::Computing(generation) = worker.task else { panic!("{process} is idle") };
        worker.step += 1;
        let done = worker.step;
        self.did_step(process, generation, done);
    }

    pub(super) fn did_step(&mut self, process: Process, generation: Generation, done: u64) {
        let round = self.rounds.get_mut(&generation).unwrap();
        round.members.get_mut(&process).unwrap().done = Some(done);
        let has_completed = done >= self.settings.steps.0;
        self.is_saved |= has_completed && round.leader == process;
        if has_completed || round.pause_after == Some(done) {
            self.become_idle(process, ReadyCause::AsTold);
        }
    }

    pub(super) fn interrupt(&mut self, process: Process) {
        self.break_off(process);
        self.become_idle(process, ReadyCause::Interrupted(String::new()));
    }

    pub(super) fn break_off(&mut self, process: Process) {
        if let Task::Computing(generation) = self.workers[process].task {
            let round = self.rounds.get_mut(&generation).unwrap();
            round.members.get_mut(&process).unwrap().has_broken_off = true;
        }
    }

    pub(super) fn fetched(&mut self, process: Process) {
        let Task::Fetching(donor) = self.workers[process].task else { panic!("{process}") };
        let from = &self.workers[donor];
        if from.is_gone || donor == process {
            self.become_idle(process, ReadyCause::NotFetched(String::new()));
            return;
        }
        let (before, step) = (self.furthest(), from.step);
        self.workers[process].step = step;
        self.workers[process].has_strayed = false;
        assert!(self.furthest() >= before, "{process} gave up step {before} for {step}");
        self.become_idle(process, ReadyCause::AsTold);
    }

    pub(super) fn become_idle(&mut self, process: Process, cause: ReadyCause) {
        self.workers[process].task = Task::Idle;
        self.workers[process].is_hung = false;
        self.workers[process].cause = cause;
        let link = self.workers[process].link.and_then(|id| self.links.get(&id));
        if link.is_some_and(|link| link.is_admitted) {
            self.say_ready(process);
        }
    }

    pub(super) fn say_ready(&mut self, process: Process) {
        let worker = &mut self.workers[process];
        let (link, step) = (worker.link, worker.step);
        // The cause is reported once; a later coordinator does not get it.
        let cause = std::mem::replace(&mut worker.cause, ReadyCause::AsTold);
        let position = Position { step: Step(step), digest: digest(step) };
        self.say(process, Event::Ready(link.unwrap(), position, cause));
    }

    pub(super) fn say(&mut self, process: Process, event: Event) {
        let link = self.workers[process].link.and_then(|id| self.links.get_mut(&id));
        link.unwrap().up.push_back(event);
    }

    pub(super) fn exit(&mut self, process: Process) {
        self.break_off(process);
        self.disconnect(process);
        self.workers[process] = Worker { is_gone: true, ..Worker::new() };
    }

    /// Ends the connection. The coordinator learns of the end after all earlier messages.
    pub(super) fn disconnect(&mut self, process: Process) {
        let Some(id) = self.workers[process].link.take() else { return };
        self.workers[process].has_strayed = true;
        if let Some(link) = self.links.get_mut(&id) {
            link.down.clear();
            link.up.push_back(Event::Lost(id, Loss::Disconnected(String::new())));
        }
    }
}
