#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""RAM disk in Python, on interface version 2: `ram.py NAME SIZE_MIB [QUEUES [DEPTH]]` makes
/dev/zosbd2-NAME and serves it with one thread until it is destroyed: by SIGINT or SIGTERM, unless it is in
use, or by anyone. Exits with 0 then. The memory is the file /dev/shm/zosbd2-NAME, and is taken as it is written:
after the death of this process, I/O waits for 30 s, and the same command goes on with the same data. Numbers and structures are those of abi/include/zosbd2.h; a test compares them."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import sys
import threading
from ctypes import c_char, c_int32, c_int64, c_uint32, c_uint64

MAX_NAME_BYTES = 24
CREATE_VOLATILE_CACHE, REQUEST_NO_UNMAP = 4, 2
OP_READ, OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES = 0, 1, 2, 4
IOCTL_CREATE = 3230711041
IOCTL_ATTACH = 3224419586
IOCTL_DESTROY = 3224419587
IOCTL_STATUS = 3232808197
IOCTL_START = 3221798160
IOCTL_ENTER = 3227565331

PR_SET_IO_FLUSHER = 57
BATCH = 32


def structure(name, text):
    kinds = {"u32": c_uint32, "s32": c_int32, "u64": c_uint64, "s64": c_int64, "text": c_char * 32,
             "word": c_char * 16}
    lists = (part.split() for part in text.split(";"))
    fields = [(field, kinds[kind]) for kind, *names in lists for field in names]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Create = structure("Create", """u32 size flags; text name serial; u64 size_bytes;
    u32 logical_block_size physical_block_size io_min io_opt max_io_bytes queues depth discard_granularity
    max_discard_bytes max_write_zeroes_bytes max_secure_erase_bytes deadline_ms grace_ms handle deadline_policy reserved""")
Attach = structure("Attach", "u32 size flags; text name; u32 handle epoch")
Status = structure("Status", """u32 size flags; text name serial; u64 size_bytes;
    u32 logical_block_size physical_block_size io_min io_opt max_io_bytes queues depth discard_granularity
    max_discard_bytes max_write_zeroes_bytes max_secure_erase_bytes deadline_ms grace_ms handle create_flags state epoch
    servers owner_uid version major minor deadline_policy lost pid opens threads unserved_ms; word program""")
Destroy = structure("Destroy", "u32 size flags; text name; u32 handle epoch")
Start = structure("Start", "u32 size flags")
Enter = structure("Enter", """u32 size flags; u64 commits requests arena arena_bytes buffers; u32 commit_count
    commit_bytes capacity request_bytes buffer_count queue minimum spin_us timeout_ms processed refused fetched""")
Commit = structure("Commit", """u64 handle; s64 result; u64 address; u32 iovec_count flags; s32 status;
    u32 reserved""")
Request = structure("Request", "u64 handle offset length data; u32 op flags queue reserved")


def make(kind, **fields):
    return kind(size=ctypes.sizeof(kind), **fields)


class Ram:
    """The device and its memory."""

    def __init__(self, name, size, queues, depth):
        self.serving, self.gone = True, False
        self.control = open_control()
        self.path = "/dev/shm/zosbd2-" + name.decode()
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one process at a time
        if os.fstat(self.file).st_size not in (0, size):
            raise OSError(errno.EEXIST, self.path + " has another size")
        os.ftruncate(self.file, size)
        self.memory = mmap.mmap(self.file, size, mmap.MAP_SHARED)
        self.address = ctypes.addressof(c_char.from_buffer(self.memory))
        create = make(
            Create, name=name, size_bytes=size, queues=queues, depth=depth, grace_ms=30000,
            physical_block_size=mmap.PAGESIZE, max_discard_bytes=1 << 30, max_write_zeroes_bytes=1 << 30)
        try:
            self.server = fcntl.ioctl(self.control, IOCTL_CREATE, create)
            self.queues, handle = queues, create.handle
            self.existed = False
        except FileExistsError:
            self.queues, handle = self.follow(create)
            self.existed = True
        except OSError as error:
            hint = {errno.EINVAL: "the name has an invalid character?",
                    errno.ERANGE: "the size, the queues or the depth are outside their limits",
                    errno.EOVERFLOW: "queues times depth are more than 65536",
                    errno.ENOTTY: "the module is older than this program?"}.get(error.errno)
            raise OSError(error.errno, "create" + (f" ({hint})" if hint else "") + f": {error.strerror}") from None
        queues = self.queues
        self.own = make(Destroy, name=name, handle=handle)  # a name may be given again
        self.commits, self.requests = (Commit * BATCH)(), (Request * BATCH)()
        self.enter = make(Enter, commits=ctypes.addressof(self.commits), commit_bytes=ctypes.sizeof(Commit),
                          requests=ctypes.addressof(self.requests), request_bytes=ctypes.sizeof(Request),
                          capacity=BATCH, minimum=int(queues == 1))

    def follow(self, create):
        """Becomes the server of an existing device that has lost its server, if it is the wanted one."""
        status = make(Status, name=create.name)
        fcntl.ioctl(self.control, IOCTL_STATUS, status)
        is_ours = (status.version == 2 and status.size_bytes == create.size_bytes
                   and status.logical_block_size == 512 and not status.serial
                   and not status.create_flags & CREATE_VOLATILE_CACHE)
        if not is_ours:
            raise OSError(errno.EEXIST, "a device of that name exists, and is another one")
        # Not if another server came in between.
        attach = make(Attach, name=create.name, handle=status.handle, epoch=status.epoch)
        try:
            self.server = fcntl.ioctl(self.control, IOCTL_ATTACH, attach)
        except OSError as error:
            server = f": process {status.pid} ({status.program.decode()})" if status.pid else ""
            raise OSError(error.errno, "attach: " + ("the device has a server" + server if error.errno == errno.EBUSY
                                                     else error.strerror)) from None
        return status.queues, status.handle

    def clear(self, start, length, stay):
        """Clears memory, and frees whole pages unless they must stay allocated."""
        head = -start % mmap.PAGESIZE
        whole = 0 if stay else max(length - head, 0) // mmap.PAGESIZE * mmap.PAGESIZE
        if whole > 0:
            self.memory.madvise(mmap.MADV_REMOVE, start + head, whole)
        else:
            head = length
        ctypes.memset(self.address + start, 0, head)
        ctypes.memset(self.address + start + head + whole, 0, length - head - whole)

    def answer(self, request, commit):
        """The answer to a request. The kernel copies the data, and keeps requests inside the disk."""
        address, result = 0, request.length
        if request.op in (OP_READ, OP_WRITE):
            address = self.address + request.offset
        elif request.op in (OP_DISCARD, OP_WRITE_ZEROES):
            self.clear(request.offset, request.length, request.flags & REQUEST_NO_UNMAP)
        else:
            result = -errno.EOPNOTSUPP  # none that was announced
        commit.handle, commit.result, commit.address, commit.status = request.handle, result, address, 0

    def call(self, queue):
        """One ENTER: commits the requests of the last call, and fetches from this queue."""
        enter = self.enter
        enter.queue = queue
        try:
            fcntl.ioctl(self.server, IOCTL_ENTER, enter)
        except InterruptedError:
            return  # nothing was committed: the same again
        for commit in self.commits[:enter.processed] if enter.refused else ():
            if commit.status == -errno.ESTALE:  # the handle is stale
                print("ram.py: a commit came too late", file=sys.stderr)
            elif commit.status != 0:
                raise OSError(-commit.status, os.strerror(-commit.status))
        for index in range(enter.fetched):
            self.answer(self.requests[index], self.commits[index])
        enter.commit_count = enter.fetched

    def serve(self):
        """Serves until the device is gone or another server has taken over."""
        poll = select.poll()
        poll.register(self.server, select.POLLIN)
        try:
            # Allocations must not wait for I/O, because that I/O may be to this disk.
            if ctypes.CDLL(None).prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:
                raise PermissionError("prctl(PR_SET_IO_FLUSHER)")
            while True:
                for queue in range(self.queues):
                    self.call(queue)
                if self.queues > 1 and self.enter.commit_count == 0:
                    poll.poll()
        except Exception as error:
            if getattr(error, "errno", None) not in (errno.ENODEV, errno.ESHUTDOWN):
                print(f"ram.py: serve: {error}", file=sys.stderr)
                os._exit(1)
            self.gone = error.errno == errno.ENODEV  # destroyed, and not taken over
        self.serving = False
        os.kill(os.getpid(), signal.SIGUSR1)  # for main to look


def open_control():
    try:
        return os.open("/dev/zosbd2ctl", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        loaded = os.path.exists("/sys/module/zosbd2")
        hint = ("are you root?" if error.errno in (errno.EACCES, errno.EPERM)
                else "the module is loaded: does the container have the node?" if loaded
                else "is the kernel module zosbd2 loaded?")
        raise OSError(error.errno, f"open /dev/zosbd2ctl ({hint}): {error.strerror}") from None


def main(name, mib, queues="1", depth="0"):
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # of all threads: the loop below takes them
    ram = Ram(name.encode(), int(mib) << 20, max(int(queues), 1), int(depth))
    threading.Thread(target=ram.serve, daemon=True).start()
    if not ram.existed:
        fcntl.ioctl(ram.server, IOCTL_START, make(Start))
    print(f"serving /dev/zosbd2-{name}", flush=True)
    while ram.serving:
        if signal.sigwait(signals) != signal.SIGUSR1:
            try:
                fcntl.ioctl(ram.control, IOCTL_DESTROY, ram.own)
            except OSError as error:
                print(f"ram.py: destroy: {error.strerror}", file=sys.stderr)
    if ram.gone:
        os.unlink(ram.path)


if __name__ == "__main__":
    if sys.version_info < (3, 8):
        sys.exit("ram.py: needs Python 3.8 or newer, for mmap.madvise")
    if not 3 <= len(sys.argv) <= 5 or len(sys.argv[1]) > MAX_NAME_BYTES:
        sys.exit("usage: ram.py NAME SIZE_MIB [QUEUES [DEPTH]]")
    if not all(word.isdecimal() for word in sys.argv[2:]):
        sys.exit("ram.py: SIZE_MIB, QUEUES and DEPTH must be numbers")
    try:
        main(*sys.argv[1:])
    except OSError as failure:
        sys.exit(f"ram.py: {failure.strerror}" + (f": {failure.filename}" if failure.filename else ""))
