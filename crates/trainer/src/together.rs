//! Steps that several members make together, each with the state on its own device. Where the devices
//! exchange partials, only the losses pass through the host. Otherwise this member's partials go to the host,
//! and the sum of all partials comes back.

use std::{mem, ops::Add as _};

use collective::{AllReduce, Interrupted, Kind, Outcome, Tally};
use data::Dataset;
use model::{ModelError, PartialTree, Partner};

use crate::{StepDetails, TrainError, Trainer, ahead::resident};

/// Where the partials of the members meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// In the host's memory, where this member computes its partials.
    Elsewhere,
    /// In the host's memory. This member's partials come from its device.
    OnHost,
    /// On each member's device.
    OnDevices,
}

const HAVE_MET: &str = "the members' devices have met";

impl<D: Dataset> Trainer<D> {
    /// Decides where the partials meet, and makes room for them there.
    pub(crate) fn meet(&mut self, collective: &mut dyn AllReduce) -> Result<(), TrainError> {
        let (round, own) = (self.round(Kind::Train), collective.nodes().to_vec());
        let model = &mut self.model;
        let partner = self.replica.is_on_device().then(|| resident(&mut **model).partner());
        let (partner, memory) = (partner.flatten(), collective.memory());
        self.meeting = match (collective.device_exchange(), partner) {
            (None, None) => Meeting::Elsewhere,
            (Some(exchange), None) => {
                exchange.open(round, None)?;
                Meeting::Elsewhere
            }
            (Some(exchange), Some(partner)) => {
                let tree = PartialTree::new(&own, &exchange.all_nodes());
                exchange.open(round, Some(partner.meet(&tree)?))?;
                Meeting::OnDevices
            }
            (None, Some(partner)) => {
                partner.meet(&PartialTree::apart(&own))?;
                partner.use_memory(memory);
                Meeting::OnHost
            }
        };
        Ok(())
    }

    /// Ends the meeting: the collective's memory is not used any more. After a clean end all members
    /// disconnect their devices in agreement.
    pub(crate) fn part(&mut self, collective: &mut dyn AllReduce, is_clean: bool) {
        if is_clean && let Some(exchange) = collective.device_exchange() {
            exchange.close();
        }
        if mem::replace(&mut self.meeting, Meeting::Elsewhere) == Meeting::OnHost {
            self.partner().use_memory(None);
        }
    }

    fn partner(&mut self) -> &mut dyn Partner<Data = D> {
        resident(&mut *self.model).partner().expect(HAVE_MET)
    }

    /// Begins to compute and to exchange this member's partials. Gives the tally of each of its nodes.
    pub(crate) fn contribute_together(
        &mut self,
        collective: &mut dyn AllReduce,
    ) -> Result<Vec<Tally>, TrainError> {
        let (round, nodes) = (self.round(Kind::Train), collective.nodes().to_vec());
        let first = nodes.first().map_or(0, |node| node.start);
        let shards = first..nodes.last().map_or(0, |node| node.end);
        let counted = self.with_step(self.replica.step(), shards, |resident, step| {
            resident.partner().expect(HAVE_MET).contribute(step)
        })?;
        if self.meeting == Meeting::OnDevices {
            // While the host waits for the sums, the devices go on.
            collective.device_exchange().expect(HAVE_MET).begin(round)?;
        }
        let sums = self.partner().sums()?;
        if self.meeting == Meeting::OnHost {
            for index in 0..nodes.len() {
                self.partner().partial(index, collective.partial_mut(index))?;
            }
        }
        let tally = |(node, sums): (&collective::Node, model::Sums)| {
            let shards = &counted[(node.start - first) as usize..(node.end - first) as usize];
            let counted = shards.iter().copied().fold(Tally::default(), Tally::add);
            Tally { terms: sums.terms, ..counted }
        };
        Ok(nodes.iter().zip(sums).map(tally).collect())
    }

    /// Waits until the partials of all members are there, and all agree on the step.
    pub(crate) fn exchange_together(
        &self,
        collective: &mut dyn AllReduce,
    ) -> Result<Outcome, Interrupted> {
        let exchange = collective.device_exchange().expect(HAVE_MET);
        exchange.finish(self.round(Kind::Train), &self.contribution)
    }

    /// Applies the mean gradient, on the device.
    pub(crate) fn advance_together(
        &mut self,
        examples: u32,
        wants_details: bool,
    ) -> Result<Option<StepDetails>, ModelError> {
        let norm = self.partner().advance(wants_details)?;
        let details = norm
            .map(|norm| self.details_with(self.replica.step(), norm / f64::from(examples.max(1))));
        self.replica.note_update();
        Ok(details)
    }
}
