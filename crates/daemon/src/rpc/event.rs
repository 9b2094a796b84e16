//! `event.*`

use tokio::sync::oneshot;
use wire::api::event::{Missed, Notice, Subscribe, Subscribed};
use wire::api::id::SubscriptionId;

use super::Daemon;
use crate::bus::{Subscription, Told};
use crate::owner::{Event, ending};
use crate::session::{ClientContext, ClientHandle, Done, Effect, done_with, failed};

/// Begins a subscription; its events follow the answer.
pub async fn subscribe(daemon: &Daemon, context: &ClientContext, subscribe: Subscribe) -> Done {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Subscribe { topics: subscribe.topics, answer }).await;
    let Ok(events) = answered.await else {
        return failed(ending());
    };
    let subscribed = Subscribed { subscription: context.new_subscription(), seq: events.since() };
    let id = subscribed.subscription;
    done_with::<Subscribe>(Ok(subscribed), Effect::Subscribed(id, events))
}

/// Carries events to a client, as fast as it reads, until it or the daemon's owner has gone.
pub async fn pump(subscription: SubscriptionId, mut events: Subscription, client: ClientHandle) {
    while let Some(told) = events.next().await {
        let sent = match told {
            Told::Event(event) => client.notify(Notice { subscription, event: *event }).await,
            Told::Missed(missed) => client.notify(Missed { subscription, missed }).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
