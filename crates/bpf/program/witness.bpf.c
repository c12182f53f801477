// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// What the kernel does with files of /dev/net/tun, macvtaps and /dev/vhost-net: opens, receives,
// last closes, and the forks, execs and ends of who was given one. docs/bpf.md explains.
//
// Everything is attached to functions and tracepoints of the kernel itself, never of a module: a
// driver may be loaded later or be built in, and none is pinned. `make bpf` compiles this file.

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// The kernel's types, with the few fields that are used: CO-RE finds their true places.
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct module {
	char name[12];
};

struct file_operations {
	struct module *owner;
	void *release;
};

struct inode {
	unsigned short i_mode;
	__u32 i_rdev;
};

struct file {
	struct inode *f_inode;
	const struct file_operations *f_op;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	__u64 start_boottime;
	char comm[16];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

// include/linux/sched.h, include/uapi/linux/stat.h, include/linux/kdev_t.h
#define PF_KTHREAD 0x00200000
#define S_IFMT 0170000
#define S_IFCHR 0020000
#define MKDEV(major, minor) ((major) << 20 | (minor))
#define MAJOR(dev) ((dev) >> 20)

// Documentation/admin-guide/devices.txt: their numbers are the same on each kernel.
#define DEV_TUN MKDEV(10, 200)
#define DEV_VHOST_NET MKDEV(10, 238)

// What follows is read by src/event.rs.

enum kind {
	KIND_OPEN = 1,
	KIND_RECEIVE = 2,
	KIND_CLOSE = 3,
	KIND_FORK = 4,
	KIND_EXEC = 5,
	KIND_EXIT = 6,
};

enum driver {
	DRIVER_NONE = 0,
	DRIVER_TUN = 1,
	DRIVER_MACVTAP = 2,
	DRIVER_VHOST_NET = 3,
	DRIVER_VHOST_VDPA = 4,
};

// Times are nanoseconds since the boot, suspends included.
struct event {
	__u64 time;
	__u64 dropped; // of a close: when the last reference went
	__u64 file;    // 0: not seen before
	__u64 started; // when the process began
	__u32 kind;
	__u32 driver;
	__u32 rdev;
	__u32 pid; // of the process; 0 for the kernel's own threads
	__u32 thread;
	__u32 child; // of a fork
	__s32 fd;    // of a receive
	__u32 padding;
	char comm[16];
};

// One descriptor, as `descriptors` writes it.
struct held {
	__u64 file;
	__u64 started;
	__u32 driver;
	__u32 rdev;
	__u32 pid;
	__u32 thread;
	__u32 fd;
	__u32 padding;
};

enum count {
	COUNT_RING_FULL,  // events
	COUNT_FILES_FULL, // files that got no id
	COUNT_PROCESSES_FULL,
	COUNT_STALE, // files whose last close was not seen
	COUNTS,
};

struct known {
	__u64 id;
	__u32 driver;
	__u32 rdev;
};

struct closing {
	struct known file;
	__u64 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} EVENTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} LOST SEC(".maps");

// The ids of open files by their `struct file *`, which never leaves the kernel.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct known);
} FILES SEC(".maps");

// The ids of files that are open, or whose release is under way: what an event was lost of can be
// asked for here.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u8);
} OPEN SEC(".maps");

// Files whose release is under way, by the thread that does it.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct closing);
} CLOSING SEC(".maps");

// Processes that have or had such a file.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u8);
} PROCESSES SEC(".maps");

__u64 last_id = 0;

// The macvtap drivers' major numbers, where they are built in; 0 where they are not.
const volatile __u32 macvtap_major = 0;
const volatile __u32 ipvtap_major = 0;

static void count(__u32 what)
{
	__u64 *lost = bpf_map_lookup_elem(&LOST, &what);

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

static bool is_character_device(struct inode *inode)
{
	return (inode->i_mode & S_IFMT) == S_IFCHR;
}

// Whether a driver is this module. `size` has the name's end.
static __always_inline bool is_module(const struct module *owner, const char *name, int size)
{
	for (int at = 0; at < size; at++) {
		if (owner->name[at] != name[at])
			return false;
	}
	return true;
}

// Whose file this is. A file that is open by O_PATH alone is nobody's: it has no release.
static __u32 driver_of(struct file *file, struct inode *inode)
{
	const struct file_operations *ops = file->f_op;
	__u32 rdev = inode->i_rdev, major = MAJOR(rdev);
	struct module *owner;

	if (!is_character_device(inode) || !ops->release)
		return DRIVER_NONE;
	if (rdev == DEV_TUN)
		return DRIVER_TUN;
	if (rdev == DEV_VHOST_NET)
		return DRIVER_VHOST_NET;
	if (major && (major == macvtap_major || major == ipvtap_major))
		return DRIVER_MACVTAP;
	// Their numbers are given when the driver is loaded. macvtap and ipvtap both are `tap`.
	owner = ops->owner;
	if (owner && is_module(owner, "tap", sizeof("tap")))
		return DRIVER_MACVTAP;
	if (owner && is_module(owner, "vhost_vdpa", sizeof("vhost_vdpa")))
		return DRIVER_VHOST_VDPA;
	return DRIVER_NONE;
}

// Gives a file that is not known an id.
static void remember_file(struct file *file, struct known *known, __u64 flags)
{
	__u64 key = (__u64)file;
	__u8 one = 1;

	known->rdev = file->f_inode->i_rdev;
	known->id = __sync_fetch_and_add(&last_id, 1) + 1;
	if (bpf_map_update_elem(&OPEN, &known->id, &one, BPF_ANY) ||
	    bpf_map_update_elem(&FILES, &key, known, flags))
		count(COUNT_FILES_FULL);
}

static void remember_process(__u32 pid)
{
	__u8 one = 1;

	if (pid && bpf_map_update_elem(&PROCESSES, &pid, &one, BPF_ANY))
		count(COUNT_PROCESSES_FULL);
}

// An event of this kind by this task, with all that does not belong to its kind zero.
static struct event *event_of(__u32 kind, struct task_struct *task)
{
	struct event *event = bpf_ringbuf_reserve(&EVENTS, sizeof(*event), 0);

	if (!event) {
		count(COUNT_RING_FULL);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_boot_ns();
	event->kind = kind;
	event->thread = task->pid;
	if (!(task->flags & PF_KTHREAD))
		event->pid = task->tgid;
	event->started = task->group_leader->start_boottime;
	bpf_probe_read_kernel(event->comm, sizeof(event->comm), &task->comm);
	return event;
}

static void set_file(struct event *event, const struct known *known)
{
	event->file = known->id;
	event->driver = known->driver;
	event->rdev = known->rdev;
}

SEC("fexit/chrdev_open")
int BPF_PROG(opened, struct inode *inode, struct file *file, int error)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = (__u64)file;
	struct known known = {};
	struct event *event;

	if (error)
		return 0;
	known.driver = driver_of(file, inode);
	if (known.driver == DRIVER_NONE)
		return 0;
	if (bpf_map_lookup_elem(&FILES, &key))
		count(COUNT_STALE);
	remember_file(file, &known, BPF_ANY);
	remember_process(task->tgid);
	event = event_of(KIND_OPEN, task);
	if (event) {
		set_file(event, &known);
		bpf_ringbuf_submit(event, 0);
	}
	return 0;
}

// SCM_RIGHTS, pidfd_getfd(2) and seccomp's notifications: who gets a file, gets it here.
static int receive(struct file *file, int fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = (__u64)file;
	struct known known = {}, *found;
	struct event *event;

	if (fd < 0)
		return 0;
	found = bpf_map_lookup_elem(&FILES, &key);
	if (found) {
		known = *found;
	} else {
		known.driver = driver_of(file, file->f_inode);
		if (known.driver == DRIVER_NONE)
			return 0;
		// Open before we were.
		remember_file(file, &known, BPF_NOEXIST);
	}
	remember_process(task->tgid);
	event = event_of(KIND_RECEIVE, task);
	if (event) {
		set_file(event, &known);
		event->fd = fd;
		bpf_ringbuf_submit(event, 0);
	}
	return 0;
}

SEC("fexit/receive_fd")
int BPF_PROG(received, struct file *file, int *ufd, unsigned int flags, int fd)
{
	return receive(file, fd);
}

// Older kernels have it under another name, for SCM_RIGHTS, and a shorter receive_fd() around it, for
// pidfd_getfd(2). Debian's compiler copied the one into the other. Where it did not, the latter's is
// told twice, as the same file and number in the same process.
SEC("fexit/__receive_fd")
int BPF_PROG(received_before, struct file *file, int *ufd, unsigned int flags, int fd)
{
	return receive(file, fd);
}

SEC("fexit/receive_fd")
int BPF_PROG(received_before_short, struct file *file, unsigned int flags, int fd)
{
	return receive(file, fd);
}

// The last reference is gone: the kernel is about to call the driver's release. This runs for each
// file of the host, so it looks at the inode before anything else.
SEC("fentry/__fput")
int BPF_PROG(dropped, struct file *file)
{
	__u64 key = (__u64)file, thread = bpf_get_current_pid_tgid();
	struct inode *inode = file->f_inode;
	struct closing closing = {};
	struct known *found;

	if (!is_character_device(inode))
		return 0;
	found = bpf_map_lookup_elem(&FILES, &key);
	if (found) {
		closing.file = *found;
		bpf_map_delete_elem(&FILES, &key);
	} else {
		closing.file.driver = driver_of(file, inode);
		if (closing.file.driver == DRIVER_NONE)
			return 0;
		closing.file.rdev = inode->i_rdev;
	}
	closing.dropped = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&CLOSING, &thread, &closing, BPF_ANY))
		count(COUNT_FILES_FULL);
	return 0;
}

// __fput() puts the character device once its release has returned: the driver has let go.
SEC("fentry/cdev_put")
int BPF_PROG(released, void *cdev)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct closing *closing = bpf_map_lookup_elem(&CLOSING, &thread);
	struct event *event;

	if (!closing)
		return 0;
	event = event_of(KIND_CLOSE, bpf_get_current_task_btf());
	if (event) {
		set_file(event, &closing->file);
		event->dropped = closing->dropped;
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&OPEN, &closing->file.id);
	bpf_map_delete_elem(&CLOSING, &thread);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(forked, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = parent->tgid, other = child->tgid;
	struct event *event;

	if (other == pid || !bpf_map_lookup_elem(&PROCESSES, &pid))
		return 0;
	remember_process(other);
	event = event_of(KIND_FORK, parent);
	if (event) {
		event->child = other;
		bpf_ringbuf_submit(event, 0);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(executed, struct task_struct *task)
{
	__u32 pid = task->tgid;
	struct event *event;

	if (!bpf_map_lookup_elem(&PROCESSES, &pid))
		return 0;
	event = event_of(KIND_EXEC, task);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}

// The end of a process is the end of its last thread: the first one's may come long before. Of two
// threads that end at the same time both may find that none is left; one of them takes it out.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(exited, struct task_struct *task)
{
	__u32 pid = task->tgid;
	struct event *event;

	if (task->signal->live.counter || bpf_map_delete_elem(&PROCESSES, &pid))
		return 0;
	event = event_of(KIND_EXIT, task);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}

// Every descriptor of such a file in every process, and an id for those that were open before us.
// The iterator holds a reference meanwhile, so none is in its last close.
SEC("iter/task_file")
int descriptors(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct held held = {};
	struct known known = {}, *found;
	__u64 key = (__u64)file;

	if (!task || !file)
		return 0;
	known.driver = driver_of(file, file->f_inode);
	if (known.driver == DRIVER_NONE)
		return 0;
	found = bpf_map_lookup_elem(&FILES, &key);
	if (found)
		known = *found;
	else
		remember_file(file, &known, BPF_NOEXIST);
	remember_process(task->tgid);
	held.file = known.id;
	held.driver = known.driver;
	held.rdev = known.rdev;
	held.pid = task->tgid;
	held.thread = task->pid;
	held.started = task->group_leader->start_boottime;
	held.fd = context->fd;
	bpf_seq_write(context->meta->seq, &held, sizeof(held));
	return 0;
}
