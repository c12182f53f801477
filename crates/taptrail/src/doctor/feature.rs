//! Whether the running kernel has a driver, as its own lists say: nothing is loaded or opened.

use super::system::System;

/// How the kernel has a driver or an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    /// It is there: built in, or its module is loaded.
    Present,
    /// The kernel loads its module when it is first used.
    Loadable,
    /// Its module is not loaded, and the kernel loads none any more.
    Barred,
    /// The kernel was built without it, or its module is not installed.
    Absent,
    /// No list of the kernel's can be read here.
    Unknown,
}

/// The lists of the running kernel.
#[derive(Debug)]
pub(super) struct Features {
    /// Its configuration.
    config: Option<String>,
    /// The modules in the kernel itself, and those that are installed, a path in each line.
    built_in: Option<String>,
    installed: Option<String>,
    /// The names of drivers in /proc/misc and of character devices in /proc/devices.
    drivers: String,
    loaded: Vec<String>,
    can_load: bool,
}

impl Features {
    pub(super) fn of(system: &System, release: &str) -> Self {
        let modules = format!("/lib/modules/{release}");
        let config =
            system.read_gzip("/proc/config.gz").or_else(|_| system.read(format!("/boot/config-{release}")));
        let read = |path: String| system.read(path).ok();
        let loaded = std::fs::read_dir(system.path("/sys/module")).into_iter().flatten().flatten();
        let is_on = |path: &str| system.read(path).is_ok_and(|text| text.trim() == "1");
        let arguments = system.read("/proc/cmdline").unwrap_or_default();
        Self {
            config: config.or_else(|_| system.read(format!("{modules}/config"))).ok(),
            built_in: read(format!("{modules}/modules.builtin")),
            installed: read(format!("{modules}/modules.dep")),
            drivers: format!(
                "{}\n{}",
                system.read("/proc/misc").unwrap_or_default(),
                system.read("/proc/devices").unwrap_or_default()
            ),
            loaded: loaded.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            can_load: !is_on("/proc/sys/kernel/modules_disabled")
                && !arguments.split_ascii_whitespace().any(|argument| argument == "nomodule"),
        }
    }

    /// The value of an option of the kernel's configuration: `y`, `m` or a number; `n` if it is not
    /// set; None if the configuration can't be read.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let config = self.config.as_ref()?;
        let value = config.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Some(value.map_or("n", str::trim))
    }

    /// Whether a driver registered this name.
    fn has_driver(&self, name: &str) -> bool {
        self.drivers.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some(name))
    }

    /// How the kernel has a driver: by its option, its module, and the name that it registers.
    pub(super) fn of_driver(&self, option: &str, module: &str, driver: Option<&str>) -> Feature {
        let installed = |list: &Option<String>| list.as_ref().map(|list| has_module(list, module));
        let is_loaded = self.loaded.iter().any(|loaded| loaded == module);
        if is_loaded || driver.is_some_and(|driver| self.has_driver(driver)) {
            return Feature::Present;
        }
        match (self.option(option), installed(&self.built_in), installed(&self.installed)) {
            (Some("y"), ..) | (_, Some(true), _) => Feature::Present,
            (.., Some(true)) if self.can_load => Feature::Loadable,
            (.., Some(true)) => Feature::Barred,
            // Configured as a module, which is not among those that are installed.
            (Some(_), _, Some(false)) | (Some("n"), ..) | (_, Some(false), Some(false)) => Feature::Absent,
            _ => Feature::Unknown,
        }
    }
}

/// Whether a list of modules.builtin or modules.dep has a module; `-` and `_` are the same in their
/// names.
fn has_module(list: &str, module: &str) -> bool {
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or(line);
        let name = path.rsplit('/').next().unwrap_or(path);
        let name = name.split(".ko").next().unwrap_or(name);
        name.len() == module.len()
            && name
                .bytes()
                .zip(module.bytes())
                .all(|(a, b)| a == b || (matches!(a, b'-' | b'_') && b == b'_'))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn vhost(root: &Path) -> Feature {
        Features::of(&System::at(root), "6.1.0").of_driver("CONFIG_VHOST_NET", "vhost_net", Some("vhost-net"))
    }

    #[test]
    fn a_driver_is_known_by_the_kernels_lists() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(vhost(root), Feature::Unknown, "nothing can be read");
        put(root, "boot/config-6.1.0", "CONFIG_TUN=m\n# CONFIG_VHOST_NET is not set\n");
        assert_eq!(vhost(root), Feature::Absent);
        put(root, "boot/config-6.1.0", "CONFIG_VHOST_NET_X=y\nCONFIG_VHOST_NET=m\n");
        assert_eq!(vhost(root), Feature::Unknown, "a module that may not be installed");
        put(root, "lib/modules/6.1.0/modules.dep", "kernel/drivers/vhost/vhost.ko.xz:\n");
        assert_eq!(vhost(root), Feature::Absent, "it is not installed");
        let dep = "kernel/drivers/vhost/vhost-net.ko.xz: kernel/drivers/vhost/vhost.ko.xz\n";
        put(root, "lib/modules/6.1.0/modules.dep", dep);
        assert_eq!(vhost(root), Feature::Loadable);
        put(root, "proc/cmdline", "quiet nomodule\n");
        assert_eq!(vhost(root), Feature::Barred);
        put(root, "proc/cmdline", "quiet\n");
        put(root, "proc/sys/kernel/modules_disabled", "1\n");
        assert_eq!(vhost(root), Feature::Barred);
        put(root, "proc/misc", "238 vhost-net\n200 tun\n");
        assert_eq!(vhost(root), Feature::Present, "it is loaded");
    }

    #[test]
    fn a_kernels_own_copy_of_its_configuration_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "boot/config-6.1.0", "# CONFIG_VHOST_NET is not set\n");
        put(root, "proc/x", "");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"CONFIG_VHOST_NET=y\nCONFIG_HZ=250\n").unwrap();
        fs::write(root.join("proc/config.gz"), gzip.finish().unwrap()).unwrap();
        let features = Features::of(&System::at(root), "6.1.0");
        assert_eq!(features.option("CONFIG_HZ"), Some("250"));
        assert_eq!(features.option("CONFIG_H"), Some("n"));
        assert_eq!(vhost(root), Feature::Present);
    }

    #[test]
    fn a_module_in_sys_or_in_the_kernel_is_present() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "lib/modules/6.1.0/modules.builtin", "kernel/net/bridge/bridge.ko\n");
        put(root, "lib/modules/6.1.0/modules.dep", "");
        let features = Features::of(&System::at(root), "6.1.0");
        assert_eq!(features.of_driver("CONFIG_BRIDGE", "bridge", None), Feature::Present);
        assert_eq!(features.of_driver("CONFIG_MACVTAP", "macvtap", None), Feature::Absent);
        put(root, "sys/module/macvtap/refcnt", "0");
        let features = Features::of(&System::at(root), "6.1.0");
        assert_eq!(features.of_driver("CONFIG_MACVTAP", "macvtap", None), Feature::Present);
    }
}
