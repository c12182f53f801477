//! A real `/dev/vhost-net`, from its open to its close. Where the running kernel has none, `scripts/test-vm` runs these
//! tests in a virtual machine.

#![allow(clippy::unwrap_used)]

mod world;

use world::World;

#[test]
fn vhost_net_is_opened_where_it_is_wanted() {
    let world = World::new();
    let guest = world.start(
        "web1",
        &[
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:01,vhost=on",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:02",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:03,vhost=off",
        ],
    );
    let vhost = "vhost-net /dev/vhost-net";
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet1", "tun vnet2", vhost, vhost]);
    world.stop(&guest);
    world.assert_clean();
}
