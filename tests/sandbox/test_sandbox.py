"""Escapes and forgeries against the real bubblewrap, as root and as an ordinary user. None does harm if it succeeds."""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards.code import code_accuracy
from rewards.code_agent import read_results
from rewards.sandbox import Limits, run
from rewards.sandbox_view import SandboxError, View, python
from rewards.types import CORRECT, WRONG
from rl.config import RewardConfig
from rl.scoring.reward_functions import RewardFunctions
from rl.types import BadInput
from tests.unit.test_score import group

ROOT = Path(__file__).resolve().parents[2]
HUMAN_EVAL = ROOT.parent / "shared" / "data" / "human_eval" / "HumanEval.jsonl.gz"
SECRET = "planted-secret-5f1c"


def why_not() -> str:
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    try:
        return "" if run([python(), "-I", "-c", "print(1)"]).stdout == b"1\n" else "bubblewrap runs nothing here"
    except SandboxError as error:
        return f"bubblewrap does not work here: {error}"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="session", autouse=True)
def _ray_cluster():
    """In place of the other integration tests' cluster: none is needed here."""


def user_python() -> str:
    """An interpreter that an ordinary user can start: ours, or the system's when it is new enough; "" for none."""
    for path in (python(), "/usr/bin/python3"):
        check = f"import os, sys; os.stat({path!r}); sys.exit(sys.version_info < (3, 11))"
        with contextlib.suppress(OSError):
            if subprocess.run([*AS_NOBODY, path, "-c", check], capture_output=True, timeout=60).returncode == 0:
                return path
    return ""


AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
CALLER = """
import dataclasses, json, sys
from rewards.sandbox import Limits, run
from rewards.sandbox_view import python
source, limits, unsafe = json.loads(sys.argv[1])
ran = run([python(), "-I", "-c", source], limits=Limits(**limits), run_untrusted_code_without_sandbox=unsafe)
print(json.dumps({k: v.decode("latin-1") if isinstance(v, bytes) else v for k, v in dataclasses.asdict(ran).items()}))
"""


@pytest.fixture(params=["root", "user"] if os.geteuid() == 0 else ["user"])
def call(request, tmp_path):
    """call(source, unsafe=False, **limits): run an attack from a process of that user, which has SECRET in its
    environment. {secret}: a file with SECRET in it; {outside}: a folder that all may write; both outside."""
    command = [sys.executable]
    if os.geteuid() == 0 and request.param == "user":
        if not user_python():
            pytest.skip("no Python 3.11 that an ordinary user can start")
        command = [*AS_NOBODY, user_python()]
    outside = Path("/var/tmp" if os.access("/var/tmp", os.W_OK) else "/tmp") / f"aha-outside-{os.getpid()}"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text(SECRET)

    def call(source, unsafe=False, **limits):
        source = HELP + source.replace("{secret}", f"{outside}/secret").replace("{outside}", str(outside))
        argument = json.dumps([source.replace("{pid}", str(os.getpid())), limits, unsafe])
        env = {
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "AHA_SECRET": SECRET,
        }
        done = subprocess.run([*command, "-c", CALLER, argument], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    call.outside = outside
    yield call
    shutil.rmtree(outside)


# Each attack prints ESCAPED when it gets through, and "tried" at its end, so that a broken attack passes no test.
HELP = """
import ctypes, errno, os, resource, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, *args):
    try:
        result = what(*args)
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        return None
    if result not in (-1, False, None):
        print("ESCAPED", what, args, repr(result)[:80], flush=True)
"""
READ = "lambda path: open(path, 'rb').read(1 << 20).find(b'planted' b'-secret') >= 0 or None"
ATTACKS = {
    "read the environment of every process": f"for p in os.listdir('/proc'): attempt({READ}, f'/proc/{{p}}/environ')",
    "read a file of the host": f"attempt({READ}, '{{secret}}')",
    "read a file through another process's root": f"for p in os.listdir('/proc'): attempt({READ}, f'/proc/{{p}}/root{{secret}}'); attempt({READ}, f'/proc/{{p}}/cwd/../..{{secret}}')",
    "read a file through a symbolic link": f"os.symlink('{{secret}}', 'a'); os.symlink('/proc/1/root', 'b'); attempt({READ}, 'a'); attempt({READ}, 'b{{secret}}')",
    "write outside": "attempt(open, '{outside}/new', 'w'); os.symlink('{outside}', 'c'); attempt(open, 'c/new', 'w'); attempt(os.makedirs, '{outside}')",
    "write to the system": "for p in ('/x', '/usr/x', '/etc/x', '/dev/x', os.__file__, sys.executable, '/proc/sys/kernel/hostname', '/proc/sysrq-trigger'): attempt(lambda p: open(p, 'a') and 1, p)",
    "see the host's files": "for p in ('/etc/passwd', '/etc/hostname', '/home', '/var', '/sys', '/run', '/work', '/boot', '/opt'): attempt(lambda p: os.path.exists(p) or None, p)\nfor p in sys.path: attempt(lambda p: os.listdir(p + '/site-packages') or None, p)",
    "see the host's processes": "attempt(lambda: len([p for p in os.listdir('/proc') if p.isdigit()]) > 3 or None); attempt(lambda: os.getppid() > 1 or None)",
    "signal the caller": "attempt(os.kill, {pid}, 0)\ntry: os.kill({pid}, 0); print('ESCAPED')\nexcept ProcessLookupError: pass",
    "trace other processes": "for p in (1, {pid}): attempt(libc.ptrace, 16, p, 0, 0)\nattempt(libc.process_vm_readv, 1, 0, 0, 0, 0, 0); attempt(libc.syscall, 438, 0, 0, 0)",
    "make a user namespace": "attempt(libc.unshare, 0x10000000); attempt(libc.syscall, 56, 0x10000000 | 17, 0, 0, 0, 0)",
    "make other namespaces": "for flag in (0x20000, 0x4000000, 0x8000000, 0x40000000, 0x20000000): attempt(libc.unshare, flag)",
    "mount": "attempt(libc.mount, b'none', b'/tmp', b'tmpfs', 0, None); attempt(libc.mount, b'none', b'/', None, 32, None); attempt(libc.umount2, b'/proc', 2); attempt(libc.syscall, 430, b'tmpfs', 0); attempt(libc.syscall, 428, -100, b'/', 1)",
    "become root": "attempt(lambda: os.setuid(0) or 1); attempt(lambda: os.setgid(0) or 1); attempt(lambda: os.setgroups([0]) or 1); attempt(lambda: os.getuid() == 0 or None); attempt(os.chroot, '.')",
    "have capabilities": "status = open('/proc/self/status').read().split('\\n'); attempt(lambda: [l for l in status if l.startswith(('CapEff', 'CapPrm', 'CapBnd', 'CapInh')) and int(l.split()[1], 16)] or None); attempt(lambda: 'NoNewPrivs:\\t1' not in status or None)",
    "open devices": "for d in ('mem', 'kmsg', 'sda', 'vda', 'tty', 'ptmx', 'fuse', 'kvm', 'net/tun', 'console'): attempt(open, '/dev/' + d, 'rb')\nattempt(lambda: os.mknod('d', 0o60666, os.makedev(8, 0)) or 1)",
    "raise the limits": "for r in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):\n  for v in (resource.RLIM_INFINITY, resource.getrlimit(r)[1] + 1): attempt(lambda: resource.setrlimit(r, (v, v)) or 1)\nattempt(lambda: os.nice(-5) or 1)",
    "memory that no limit counts": "attempt(os.memfd_create, 'a'); attempt(libc.shmget, 0, 1 << 20, 0o1600); attempt(libc.semget, 0, 1, 0o1600); attempt(libc.msgget, 0, 0o1600)",
    "the kernel's sharper tools": "for n in (321, 323, 298, 250, 425, 447): attempt(libc.syscall, n, 0, 0, 0, 0, 0)",
    "the other networks": "attempt(lambda: len(socket.if_nameindex()) > 1 or None); attempt(lambda: socket.create_connection(('192.0.2.1', 80), 2)); attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))",
    "descriptors of the caller": "attempt(lambda: [d for d in os.listdir('/proc/self/fd') if int(d) > 2 and os.path.exists(f'/proc/self/fd/{d}')] or None)",
    "exhaust descriptors": "held = []\ntry:\n  while len(held) < 500: held.append(os.open('/dev/null', 0))\nexcept OSError: pass\nattempt(lambda: len(held) >= 64 or None); [os.close(f) for f in held]",
    "fill the memory": "held = []\ntry:\n  while len(held) < 1000: held.append(bytearray(1 << 20))\nexcept MemoryError: pass\nattempt(lambda: len(held) > 200 or None); held.clear()",
    "fill the disk": "total = 0\ntry:\n  for i in range(200):\n    for f in ('/tmp', '/dev/shm'): total += os.write(os.open(f'{f}/{i}{f[1]}', os.O_CREAT | os.O_WRONLY), bytes(1 << 20))\nexcept OSError: pass\nattempt(lambda: total > 17 << 20 or total == 0 or None)",
    "one large file": "f = os.open('big', os.O_CREAT | os.O_WRONLY)\ntry:\n  for i in range(100): os.write(f, bytes(1 << 20))\nexcept OSError: pass\nattempt(lambda: os.path.getsize('big') > 4 << 20 or None)",
    "fork without end": "n = 0\ntry:\n  while n < 300:\n    if os.fork() == 0: time.sleep(30); os._exit(0)\n    n += 1\nexcept BlockingIOError: pass\nattempt(lambda: n >= 32 or None)",
    "start threads without end": "threading.stack_size(1 << 16); n = 0\ntry:\n  while n < 300: threading.Thread(target=time.sleep, args=(30,), daemon=True).start(); n += 1\nexcept RuntimeError: pass\nattempt(lambda: n >= 32 or None); print('tried', flush=True); os._exit(0)",
    "kill all there is": "attempt(lambda: os.kill(-1, 9) or None)\nattempt(lambda: os.kill(1, 9) or None)",
}  # fmt: skip
SMALL = {"memory_mb": 200, "folder_mb": 16, "file_mb": 4, "processes": 32}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_not_get_through(call, attack):
    before = sorted(path.name for path in call.outside.iterdir())
    ran = call(ATTACKS[attack] + "\nprint('tried')", **SMALL)
    assert "ESCAPED" not in ran["stdout"]
    assert "tried" in ran["stdout"], ran
    assert sorted(path.name for path in call.outside.iterdir()) == before


OPEN_WITHOUT = ("read a file of the host", "write outside", "see the host's files", "signal the caller", "read a file through a symbolic link",
                "have capabilities", "see the host's processes", "memory that no limit counts", "the other networks")  # fmt: skip


@pytest.mark.parametrize("attack", OPEN_WITHOUT)
def test_the_same_attack_gets_through_without_a_sandbox(call, attack):
    if attack == "signal the caller" and os.geteuid() == 0 and call(f"os.kill({os.getpid()}, 0)", True)["stderr"] != "":
        pytest.skip("an ordinary user cannot signal root's process")
    assert "ESCAPED" in call(ATTACKS[attack], unsafe=True, **SMALL)["stdout"]


def test_nobody_reaches_a_listener_of_the_host(call):
    name = f"\0aha-{os.getpid()}"
    attack = "attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 2))\ns = socket.socket(socket.AF_UNIX)\nattempt(lambda: s.connect({name!r}) or 1)"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        attack = (
            attack.replace("{port}", str(tcp.getsockname()[1])).replace("{name!r}", repr(name)) + "\nprint('tried')"
        )
        assert call(attack)["stdout"] == "tried\n"
        assert call(attack, unsafe=True)["stdout"].count("ESCAPED") == 2


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("time.sleep(600)", "wall time"),
        ("os.close(1); os.close(2); time.sleep(600)", "wall time"),
        ("[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 15)]; time.sleep(600)", "wall time"),
        ("while True: pass", "CPU time"),
        ("while True: print('a' * 1000)", "output"),
        ("while True: print('a' * 1000, file=sys.stderr)", "output"),
        ("while True:\n  try: os.fork()\n  except OSError: time.sleep(600)", "wall time"),
    ],
)
def test_a_program_without_end_is_ended_and_the_limit_named(call, source, limit):
    ran = call(source, wall_s=1.5 if limit == "wall time" else 30, cpu_s=1 if limit == "CPU time" else 20, processes=20)
    assert ran["limit"] == limit
    assert ran["seconds"] < 15
    assert len(ran["stdout"]) + len(ran["stderr"]) < 3 << 20


def running(marker: str, inside: bool = False) -> list[str]:
    """Processes of the whole machine with marker in their command line. inside: programs only, not bwrap and so on."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if marker.encode() in line and (not inside or line.startswith(python().encode())):
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "time.sleep(600)"])
def test_no_daemon_survives_its_program(call, end):
    marker = f"aha-daemon-{os.getpid()}-{time.monotonic_ns()}"
    parts = f"'{marker[:8]}' + '{marker[8:]}'"  # the caller's own command line must not hold it
    source = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2): os.close(fd)
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {parts}])
    os._exit(0)
def seen():
    return any(({parts}).encode() in open(f'/proc/{{p}}/cmdline', 'rb').read() for p in os.listdir('/proc') if p.isdigit())
while not seen(): time.sleep(0.01)
print('started', flush=True)
{end}"""
    assert call(source, wall_s=3)["stdout"] == "started\n"
    deadline = time.monotonic() + 5
    while running(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(marker) == []
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", marker])  # the search finds one
    try:
        deadline = time.monotonic() + 10
        while not running(marker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running(marker) == [str(sleeper.pid)]
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_sandbox_ends_when_its_caller_is_killed():
    marker = f"aha-orphan-{os.getpid()}-{time.monotonic_ns()}"
    code = f"from rewards.sandbox import run; from rewards.sandbox_view import python; print(1, flush=True); run([python(), '-I', '-c', 'import time; time.sleep(60)', '{marker[:8]}' '{marker[8:]}'])"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not running(marker, inside=True) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running(marker, inside=True)
    finally:
        caller.kill()
        caller.wait()
    deadline = time.monotonic() + 5
    while running(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(marker) == []


def test_a_sandbox_that_cannot_start_raises(monkeypatch):
    from rewards import sandbox

    monkeypatch.setattr(sandbox, "view_of", lambda show: View(("--ro-bind", "/nowhere", "/nowhere")))
    with pytest.raises(SandboxError, match=r"could not start the program: bwrap: .*nowhere"):
        run([python(), "-c", "1"], limits=Limits())


# ------------------------------------------------------------------------------------------------ forgeries

HIDDEN = "hidden-7d19c2-answer"  # what f(1) must return: it is in the tests only
PIECES = "hidden-7d19"  # what the candidate may search for: not the whole
FORMS = {
    "call": [{"call": [1], "expected": HIDDEN}],
    "check": f"def check(candidate):\n    assert candidate(1) == {HIDDEN!r}\n",
    "io": [{"input": "1", "output": HIDDEN}],
}
SEARCH = f"""
import gc, os, re, sys
wanted = re.compile(("{PIECES[:6]}" "{PIECES[6:]}" "[a-z0-9-]{{9}}").encode())
def look(data):
    for hit in wanted.findall(data):
        return hit.decode()
def search():
    frame = sys._getframe()
    while frame:
        if hit := look(repr([frame.f_locals, frame.f_globals]).encode()): return hit
        frame = frame.f_back
    if hit := look(repr(gc.get_objects()).encode()): return hit
    for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
        paths = [f"/proc/{{pid}}/{{n}}" for n in ("cmdline", "environ")]
        try: paths += [f"/proc/{{pid}}/fd/{{n}}" for n in os.listdir(f"/proc/{{pid}}/fd") if not os.readlink(f"/proc/{{pid}}/fd/{{n}}").startswith("pipe")]
        except OSError: pass
        for path in paths:
            try: hit = look(os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 1 << 22))
            except OSError: continue
            if hit: return hit
        try:
            for line in open(f"/proc/{{pid}}/maps"):
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                if "rw" in line and high - low < 1 << 26:
                    memory = open(f"/proc/{{pid}}/mem", "rb"); memory.seek(low)
                    if hit := look(memory.read(high - low)): return hit
        except OSError: pass
    return "nothing found"
"""  # fmt: skip
FORGE = """
import os
frames = b'0' * 24 * 3 + b'passed'  # three tests passed, as rewards.code_agent.read_results reads it
for pid in [p for p in os.listdir('/proc') if p.isdigit()]:
    for n in range(64):
        for path in (f'/proc/{pid}/fd/{n}',):
            try: os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), frames)
            except OSError: pass
for n in range(3, 64):
    try: os.write(n, frames)
    except OSError: pass
"""
EQUAL = "class Any:\n  def __eq__(self, other): return True\n  __hash__ = None\n"
RIGHT = f"def f(x): return '{PIECES}' + 'c2-answer'\nif __name__ == '__main__': print(f(1))"
MAIN = "\nif __name__ == '__main__': print(f(1))"
FORGERIES = {
    "say so": "print('ALL TESTS PASSED')\ndef f(x): print('passed'); return 'passed'" + MAIN,
    "exit at once": "import sys\nsys.exit(0)",
    "exit in the call": "import sys\ndef f(x): sys.exit(0)" + MAIN,
    "exit at once without cleaning up": "import os\nos._exit(0)",
    "exit in the call without cleaning up": "import os\ndef f(x): os._exit(0)" + MAIN,
    "raise what ends quietly": "def f(x): raise SystemExit(0)" + MAIN,
    "an object equal to all": EQUAL + "def f(x): return Any()" + MAIN,
    "a text equal to all": EQUAL.replace("Any:", "Any(str):") + "def f(x): return Any('a')" + MAIN,
    "change the builtins": "import builtins\nfor n in ('AssertionError', 'Exception', 'print', 'len', 'exec', 'compile'): setattr(builtins, n, type('E', (BaseException,), {}))\ndef f(x): return 'a'",
    "change json": "import json, sys\njson.dumps = json.loads = lambda *a, **k: 'passed'\nsys.modules['json'] = json\ndef f(x): return 'a'" + MAIN,
    "search the memory and all files": SEARCH + "def f(x): return search()" + MAIN,
    "write the harness's words to every pipe": FORGE + "def f(x): return 'a'" + MAIN,
    "write them in the call": "def f(x):\n  exec(" + repr(FORGE) + ")\n  return 'a'" + MAIN,
    "write them and kill the harness": FORGE + "os.kill(-1, 9)\ndef f(x): return 'a'" + MAIN,
    "stop the harness": "import os, signal\ndef f(x):\n  for p in os.listdir('/proc'):\n    if p.isdigit() and int(p) != os.getpid(): os.kill(int(p), signal.SIGSTOP)\n  return 'a'" + MAIN,
    "define check": "def check(candidate): return True\ndef f(x): return 'a'" + MAIN,
    "patch the caller's frames": "import sys\ndef f(x):\n  frame = sys._getframe()\n  while frame: frame.f_globals.update(_send=print, _write=print, _report=print, check=print); frame.f_locals.update(test='a'); frame = frame.f_back\n  return 'a'" + MAIN,
}  # fmt: skip


def fenced(code: str) -> str:
    return f"<think>a</think>\n```python\n{code}\n```"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_not_paid(forgery, form):
    score = code_accuracy(fenced(FORGERIES[forgery]), tests=FORMS[form], entry_point="f", test_s=2, total_s=4)
    assert (score.value, score.verdict) == (0.0, WRONG)
    assert score.reason.startswith("test 1: ")


@pytest.mark.parametrize("form", FORMS)
def test_the_harness_keeps_its_descriptors_though_the_trainer_has_many_open(form):
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    try:
        counted = "import os\nopen_now = [n for n in range(3, 1000) if os.path.exists(f'/proc/self/fd/{n}')]\n"
        wanted = f"[''] if len(open_now) > {2 if form == 'check' else 1 if form == 'call' else 0} else '{PIECES}' + 'c2-answer'"
        code = f"{counted}def f(x): return {wanted}" + MAIN
        assert code_accuracy(fenced(code), tests=FORMS[form], entry_point="f").verdict == CORRECT
    finally:
        for fd in held:
            os.close(fd)


def test_the_forged_words_are_those_of_the_harness():
    words: dict[str, bytes] = {}
    exec(next(line for line in FORGE.splitlines() if line.startswith("frames")), words)
    assert read_results(words["frames"].removesuffix(b"passed")) == [("", "")] * 3


@pytest.mark.parametrize("form", FORMS)
def test_the_right_answer_is_paid(form):
    assert code_accuracy(fenced(RIGHT), tests=FORMS[form], entry_point="f").value == 1.0


def test_the_search_finds_what_is_not_hidden():
    tests = [{"call": [HIDDEN], "expected": HIDDEN}]
    assert code_accuracy(fenced(SEARCH + "def f(x): return search()"), tests=tests, entry_point="f").value == 1.0


@pytest.mark.parametrize(
    ("code", "tests", "value", "reason"),
    [
        ("print(int(input()) * 2)", [("1", "2"), ("2", "4"), ("3", "7")], 2 / 3, "test 3: '6\\n' is not '7' for '3'"),
        ("x = int(input())\nif x == 1: raise OSError('gone')\nprint(x)", [("1", "1"), ("2", "2")], 0.5, "test 1: OSError: gone"),
        ("import time\nif input() == '1': time.sleep(60)\nprint(2)", [("1", "2"), ("2", "2")], 0.5, "test 1: the time limit of 1 s"),
        ("print(2", [("1", "2")], 0.0, "test 1: SyntaxError: '(' was never closed"),
        ("print('a' * (2 << 20))", [("1", "2")], 0.0, "test 1: more than 1048576 bytes of output"),
        ("a = bytearray(1 << 30)", [("1", "2")], 0.0, "test 1: MemoryError"),
        ("import os\nfor i in range(6): os.fork()\na = b'a' * (100 << 20)\nimport time; time.sleep(9)", [("1", "2")], 0.0, "test 1: "),
        ("import threading\nthreading.Thread(target=lambda: print(open('/dev/stdin').read())).start()", [("2", "2")], 1.0, ""),
        ("import os, time\nif os.fork() == 0: time.sleep(60)\nprint(2)", [("1", "2")] * 3, 1.0, ""),
        ("print(2)\nexit()", [("1", "2")], 1.0, ""),
        ("print(2)\nquit(1)", [("1", "2")], 0.0, "test 1: it ended with status 1"),
    ],
)  # fmt: skip
def test_a_program_is_paid_its_share_and_the_first_failure_named(code, tests, value, reason):
    tests = [{"input": given, "output": output} for given, output in tests]
    score = code_accuracy(fenced(code), tests=json.dumps(tests), score="share", test_s=1)
    assert score.value == pytest.approx(value)
    assert score.reason.startswith(reason)
    assert bool(score.reason) == bool(reason)
    whole = code_accuracy(fenced(code), tests=tests, test_s=1)
    assert (whole.value, whole.verdict) == ((1.0, CORRECT) if value == 1 else (0.0, WRONG))


def test_a_cpp_program_is_compiled_once_and_run():
    code = "#include <iostream>\nint main() { int a; std::cin >> a; std::cout << a + 1; }"
    tests = [{"input": str(i), "output": f"{i + 1}\n"} for i in range(20)]
    assert code_accuracy(f"```cpp\n{code}\n```", tests=tests, language="c++").verdict == CORRECT
    tests[2]["output"] = "0"
    wrong = code_accuracy(f"```cpp\n{code}\n```", tests=tests, language="c++", score="share")
    assert (wrong.value, wrong.reason) == (0.95, "test 3: '3' is not '0' for '2'")
    broken = code_accuracy(f"```cpp\n{code[:-3]}\n```", tests=tests, language="c++")
    assert broken.reason.startswith("it does not compile: ")
    for hostile in ('#include "/etc/passwd"', '#include "/proc/1/environ"', "#include </dev/stdin>"):
        assert "error" in code_accuracy(f"```cpp\n{hostile}\n```", tests=tests, language="c++").reason


# ------------------------------------------------------------------------------------------------ HumanEval


def human_eval() -> list[dict[str, str]]:
    if not HUMAN_EVAL.exists():
        pytest.skip(f"there is no {HUMAN_EVAL}")
    with gzip.open(HUMAN_EVAL, "rt") as file:
        return [json.loads(line) for line in file]


def altered(code: str, name: str) -> str:
    """The code with the last return of function `name` giving () for what is true and ("altered",) for what is not."""
    tree = ast.parse(code)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    last = max((node for node in ast.walk(function) if isinstance(node, ast.Return)), key=lambda node: node.lineno)
    wrong = [ast.Tuple([], ast.Load()), ast.Tuple([ast.Constant("altered")], ast.Load())]
    last.value = ast.IfExp(last.value or ast.Constant(None), *wrong)
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.parametrize(("change", "verdict"), [(False, CORRECT), (True, WRONG)])
def test_human_eval_pays_every_canonical_solution_and_none_that_is_altered(change, verdict):
    rows = human_eval()

    def grade(row):
        code = row["prompt"] + row["canonical_solution"]
        code = altered(code, row["entry_point"]) if change else code
        given = {"tests": row["test"], "entry_point": row["entry_point"], "setup": "" if change else row["prompt"]}
        return code_accuracy(f"<think>a</think>\n```python\n{code}\n```", **given, test_s=20)

    with ThreadPoolExecutor(2) as pool:
        scores = list(pool.map(grade, rows))
    odd = {row["task_id"]: score for row, score in zip(rows, scores, strict=True) if score.verdict != verdict}
    assert odd == {}
    assert len(scores) == 164


# ------------------------------------------------------------------------------------------------ the guard


GUARD = "run_untrusted_code_without_sandbox"


def as_a_run_does(spelling):
    return RewardFunctions((RewardConfig("code_accuracy", options=(f"{GUARD}={spelling}",)),))


@pytest.mark.parametrize("spelling", ["false", "False", "FALSE", "0", "no", "No", "true"])
def test_a_completion_writes_outside_only_when_the_guard_is_taken_away_by_true(spelling, tmp_path):
    """ "False" was once read as a text, so as true."""
    tmp_path.chmod(0o777)
    file = tmp_path / "outside"
    program = fenced(f"try: open({str(file)!r}, 'w').write('x')\nexcept OSError: pass\nprint(2)")
    functions = as_a_run_does(spelling)
    (parts,) = functions.call_all(group(program, row={"tests": [{"input": "", "output": "2\n"}]}), functions.names)
    assert (parts["code_accuracy"].score, parts["code_accuracy"].reason) == (1.0, "")
    assert file.exists() == (spelling == "true")


@pytest.mark.parametrize(
    "spelling", ["", "None", "null", "off", '"false"', "'False'", "[]", "1", "True", "yes", " true"]
)
def test_what_is_neither_false_nor_exactly_true_starts_nothing(spelling):
    with pytest.raises(BadInput, match=f"rewards: 'code_accuracy': option {GUARD}="):
        as_a_run_does(spelling)
