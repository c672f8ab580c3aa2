from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("enrollment", "relay")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `make protos`, in another folder."""
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("protos")
    kinds = [f"--{kind}={out}" for kind in ("python_out", "pyi_out")]
    files = [f"moretta/shared/pb/{name}.proto" for name in NAMES]
    assert protoc.main([sys.executable, f"-Imoretta/shared/pb={ROOT / 'protos'}", *kinds, *files]) == 0
    return out / "moretta" / "shared" / "pb"


@pytest.mark.parametrize("name", [f"{n}{end}" for n in NAMES for end in ("_pb2.py", "_pb2.pyi")])
def test_the_committed_code_is_what_the_protos_generate(generated: Path, name: str) -> None:
    committed = ROOT / "shared" / "pb" / name
    assert committed.read_text(encoding="utf-8") == (generated / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_field_and_method_of_the_protos_is_described(name: str) -> None:
    lines = (ROOT / "protos" / f"{name}.proto").read_text(encoding="utf-8").splitlines()
    declared = [n for n, line in enumerate(lines) if line.startswith("  ") and line.rstrip().endswith((";", "{}"))]
    described = [n for n in declared if "//" in lines[n - 1] or "STATE_" in lines[n]]
    assert len(declared) >= 7
    assert described == declared
