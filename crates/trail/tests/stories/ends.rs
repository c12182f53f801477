//! Ends that no record of the guest itself tells.

use crate::scene::*;
use crate::telling::{findings, tun, vhost};
use taptrail_record::{Device, Event};
use taptrail_trail::Content;

#[test]
fn a_serial_that_restarts_is_a_reboot() {
    let scene = Scene::new().serial(9000).boots(1, &tun(), 40).boots(2, &tun(), 41).after(60);
    let report = scene.serial(7).boots(1, &tun(), 40).told();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x? released reboot inferred 60",
            "g2 tun x? released reboot inferred 60",
            "g1 tun x? held - inferred -"
        ]
    );
    assert_eq!(findings(&report), ["release-by-reboot", "release-by-reboot"]);
    assert_eq!(report.findings[0].proof.last().unwrap().serial, Some(7));
}

#[test]
fn serials_that_fall_and_not_to_those_of_a_boot_leave_all_unknown() {
    let scene = Scene::new().serial(9000).boots(1, &tun(), 40).boots(2, &tun(), 41).after(60);
    let report = scene.serial(700).boots(3, &tun(), 42).told();
    assert_eq!(
        lines(&report),
        ["g1 tun x? held - incomplete -", "g2 tun x? held - incomplete -", "g3 tun x? held - inferred -"]
    );
    assert_eq!(findings(&report), ["log-gap"]);
}

#[test]
fn a_reboot_that_is_told_is_one_reboot() {
    let scene = Scene::new().boots(1, &tun(), 40).after(60).serial(3).tells(Content::Boot).after(10);
    assert_eq!(lines(&scene.boots(2, &tun(), 40).told())[1], "g2 tun x? held - inferred -");
}

#[test]
fn a_reboot_of_one_host_is_none_of_another() {
    let report = Scene::new().boots(1, &tun(), 40).on("h2").after(60).serial(7).boots(2, &tun(), 40).told();
    assert!(lines(&report).iter().all(|line| line.contains("held")), "{report:?}");
}

#[test]
fn a_process_id_that_another_guest_has_ends_the_first() {
    let scene = Scene::new().boots(1, &tun(), 40).ok(1, open(mac(3), &vhost())).ok(1, attach(mac(3)));
    let report = scene.after(10).boots(2, &tun(), 40).told();
    assert_eq!(
        lines(&report),
        [
            "g1 tun x? released pid-reused inferred 10",
            "g1 vhost-net x? released pid-reused inferred 10",
            "g2 tun x? held - inferred -"
        ]
    );
    assert_eq!(findings(&report), ["never-released", "never-released"]);
    assert_eq!(report.findings[0].guest, Some(guest(1)));
}

#[test]
fn a_guest_whose_end_is_told_frees_its_process_id() {
    let scene = Scene::new().boots(1, &tun(), 40).ok(1, op_stop("shutdown")).boots(2, &tun(), 40);
    let report = scene.ok(2, op_stop("shutdown")).boots(1, &tun(), 40).told();
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_stop_without_the_close_of_a_device_is_a_finding() {
    let queue = |queue| Event::Open { mac: mac(1), device: tun(), queue: Some(queue) };
    let close = Event::Close { mac: mac(1), device: tun(), queue: Some(0) };
    let scene =
        Scene::new().ok(1, queue(0)).ok(1, queue(1)).ok(1, start(mac(1))).ok(1, op_start("booted", 4));
    let told = |scene: Scene| {
        let report = scene.told();
        (lines(&report), findings(&report))
    };
    let (held, found) = told(scene.ok(1, close.clone()).ok(1, op_stop("shutdown")));
    assert_eq!((&*held[0], &*found), ("g1 tun x2 released stop inferred 0", &["never-released"][..]));
    let scene = Scene::new().ok(1, queue(0)).ok(1, attach(mac(1)));
    let (held, found) = told(scene.ok(1, close).ok(1, detach(mac(1))));
    assert_eq!((&*held[0], found.len()), ("g1 tun x1 released detach inferred 0", 0));
    let scene = Scene::new().ok(1, queue(0)).ok(1, attach(mac(1)));
    assert_eq!(told(scene.ok(1, detach(mac(1))).ok(1, op_stop("shutdown"))).1, ["never-released"]);
}

#[test]
fn more_of_one_mac_than_a_guest_can_have_is_told_as_it_stands() {
    let mut scene = Scene::new();
    for _ in 0..400 {
        scene = scene.ok(1, open(mac(1), &tun())).ok(1, attach(mac(1)));
    }
    let report = scene.told();
    assert_eq!(report.holdings.len(), 400);
    assert!(lines(&report).iter().all(|line| line.contains("held")));
    assert_eq!(lines(&report)[0], "g1 tun x? held - ambiguous -");
    let mut scene = Scene::new();
    for _ in 0..400 {
        scene = scene.ok(1, open(mac(1), &tun())).ok(1, open(mac(1), &Device::new("/dev/tap9", None, None)));
    }
    let report = scene.told();
    assert_eq!(report.holdings.len(), 800);
    assert!(lines(&report).iter().all(|line| line.contains("never-granted") || line.contains("unknown")));
}
