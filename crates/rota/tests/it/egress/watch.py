"""Runs a command, and looks through the memory of every other process meanwhile, for texts that are given in two halves."""

import glob
import os
import subprocess
import sys
import time

PIECE = 4 << 20

command, halves = sys.argv[1], [half.encode() for half in sys.argv[2:]]
texts = list(zip(halves[::2], halves[1::2]))
looked, found = 0, set()


def look_into(folder):
    global looked
    # Their maps and their memory: some may not be looked into, and some are gone.
    with open(folder + "/maps") as maps, open(folder + "/mem", "rb", 0) as memory:
        for line in maps:
            place, permissions = line.split()[:2]
            if not permissions.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            while start < end:
                try:
                    memory.seek(start)
                    content = memory.read(min(PIECE, end - start))
                except (OSError, ValueError, OverflowError):
                    break
                looked += 1
                for first, second in texts:
                    at = content.find(first)
                    while at >= 0:
                        if content[at + len(first) :].startswith(second):
                            found.add(open(folder + "/comm").read().strip())
                        at = content.find(first, at + 1)
                # A text may lie across two pieces.
                start += len(content) - 256 if len(content) == PIECE else max(len(content), 1)


running = subprocess.Popen(["bash", "-c", command])
while True:
    is_over = running.poll() is not None
    for folder in glob.glob("/proc/[0-9]*"):
        if folder != f"/proc/{os.getpid()}":
            try:
                look_into(folder)
            except OSError:
                pass
    if is_over:
        break
    time.sleep(0.05)
print("memory:", sorted(found) if looked > 5 else "nothing was looked into")
sys.exit(running.returncode)
