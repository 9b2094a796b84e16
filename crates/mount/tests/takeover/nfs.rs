//! Over NFS, without the kernel's client.

#[path = "../../src/nfs/tests/client.rs"]
#[allow(dead_code, reason = "the crate's own tests use the rest")]
mod client;

use std::fs;

use nfs3_types::nfs3::stable_how::UNSTABLE;
use wire::api::mount::Backend;

use super::Field;
use client::Client;

#[test]
fn clients_come_back_to_the_same_port_with_the_handles_they_had() {
    let Some(field) = Field::mount(Backend::Nfs, &[("no-kernel-mount", "")]) else { return };
    let port = field.ready.port.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (directory, file, verifier) = runtime.block_on(async {
        let mut client = Client::connect(port).await;
        let root = client.root().await;
        let directory = client.mkdir(&root, "d").await;
        let file = client.created(&directory, "f").await;
        let written = client.write(&file, 0, b"one ", UNSTABLE).await.unwrap();
        (directory, file, written.verf)
    });
    for number in 1..=3 {
        field.kill_worker();
        runtime.block_on(async {
            // Whoever connects while nobody accepts waits for the successor.
            let mut client = Client::connect(port).await;
            let written = client.write(&file, 4 * number, b"two ", UNSTABLE).await.unwrap();
            assert_ne!(written.verf, verifier, "unstable writes are to be sent again");
            client.commit(&file).await.unwrap();
            assert_eq!(client.found(&directory, "f").await, file);
        });
    }
    assert_eq!(fs::read_to_string(field.source().join("d/f")).unwrap(), "one two two two ");
    let status = field.status(|status| status.worker.is_some());
    assert_eq!(status.restarts, 3);
    field.stop();
}
