//! How the parts of a node are joined to a cluster.

use std::error::Error;
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use crate::base::{BROKER_EVENTS_MAX, Limits, NodeId, RoomName};
use crate::broker::{Broker, BrokerConfig, EventSender, Figures, HistoryBounds};
use crate::cluster::Request;
use crate::exchange::worker_of;
use crate::ops::cluster::ClusterConfig;
use crate::worker::{Bell, BrokerEnds};

/// A node's part in a cluster.
pub(super) struct Membership {
    /// What the node is called there.
    pub(super) node: NodeId,
    /// What ends it when it is dropped.
    pub(super) broker: Broker,
    /// A seat for each shard.
    seats: Vec<Option<BrokerEnds>>,
}

impl Membership {
    /// Joins the cluster that `config` names with `shards` shards; `None` if it names none. The bell
    /// is rung for each event, and told when a thread of the broker dies.
    ///
    /// # Errors
    /// When the broker cannot be reached or used.
    pub(super) fn join(
        config: &ClusterConfig,
        node: NodeId,
        limits: &Limits,
        shards: usize,
        bell: &Bell,
    ) -> Result<Option<Self>, Box<dyn Error + Send + Sync>> {
        let Some(url) = &config.url else {
            return Ok(None);
        };
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..shards {
            let (queue, receiver) = bounded(BROKER_EVENTS_MAX);
            let bell = bell.clone();
            let wake = Arc::new(move || bell.call());
            senders.push(EventSender { queue, wake });
            receivers.push(receiver);
        }
        let bounds = HistoryBounds {
            publications_max: limits.history_publications_max as u64,
            bytes_max: limits.history_bytes_max as u64,
            ttl: limits.history_ttl,
        };
        let mut broker_config = BrokerConfig::new(url.expose(), &config.prefix, node, bounds);
        broker_config.wait = config.wait;
        // The shard of the room of nodes passes on what nodes tell each other.
        broker_config.lead = worker_of(&RoomName::control(), shards);
        let alarm = bell.clone();
        let broker = Broker::start(&broker_config, senders, Arc::new(move || alarm.fail()))?;
        let seats = receivers
            .into_iter()
            .enumerate()
            .map(|(shard, events)| Some(BrokerEnds::new(events, broker.requests(shard))))
            .collect();
        Ok(Some(Self {
            node,
            broker,
            seats,
        }))
    }

    /// What the metrics are read from.
    pub(super) fn source(&self) -> BrokerSource {
        let shards = 0..self.seats.len();
        BrokerSource {
            figures: self.broker.figures(),
            queues: shards.map(|shard| self.broker.requests(shard)).collect(),
        }
    }

    /// The seat of a shard, once.
    pub(super) fn seat(&mut self, shard: usize) -> Option<BrokerEnds> {
        self.seats.get_mut(shard)?.take()
    }
}

/// What there is to be measured of the way to the broker.
pub(super) struct BrokerSource {
    pub(super) figures: Arc<Figures>,
    /// The queues to it, for their length.
    queues: Vec<Sender<Request>>,
}

impl BrokerSource {
    /// Requests that wait to be sent, those included that the broker has not taken.
    pub(super) fn waiting(&self) -> u64 {
        let queued: usize = self.queues.iter().map(Sender::len).sum();
        self.figures.waiting.get() + queued as u64
    }
}
