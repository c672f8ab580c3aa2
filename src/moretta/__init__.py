"""Moretta: emotion recognition over sites that keep their recordings, and an audit of what still leaks.

    import moretta

    corpus = moretta.load_corpus("CREMA-D")
    rows = moretta.audit("anonymized-by-another-tool", originals="CREMA-D")
    report = moretta.simulate({"sites": 6}, corpus="CREMA-D", out="run1")

What functions find are lists of records that `pandas.DataFrame` takes as they are. A name is imported when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moretta.deploy.api import (
        Record,
        anonymize,
        audit,
        budget,
        export_model,
        load_corpus,
        load_release,
        load_study,
        make_corpus,
        predict,
        read_report,
        records,
        simulate,
        torch_dataset,
    )
    from moretta.shared.audit.report.report_schema import Report
    from moretta.shared.core.errors import MorettaError
    from moretta.shared.data.clips import Clip, Corpus, Speaker
    from moretta.shared.data.reader import CorpusReader
    from moretta.shared.release import Release
    from moretta.shared.release.anonymizer import Anonymizer, anonymizer
    from moretta.shared.study.schema import Study

    __version__: str

__all__ = [
    "Anonymizer",
    "Clip",
    "Corpus",
    "CorpusReader",
    "MorettaError",
    "Record",
    "Release",
    "Report",
    "Speaker",
    "Study",
    "__version__",
    "anonymize",
    "anonymizer",
    "audit",
    "budget",
    "export_model",
    "load_corpus",
    "load_release",
    "load_study",
    "make_corpus",
    "predict",
    "read_report",
    "records",
    "simulate",
    "torch_dataset",
]
_MODULES = {
    "moretta.deploy.api": (
        *("Record", "anonymize", "audit", "budget", "export_model", "load_corpus"),
        *("load_release", "load_study", "make_corpus", "predict", "read_report", "records", "simulate"),
        "torch_dataset",
    ),
    "moretta.shared.release.anonymizer": ("Anonymizer", "anonymizer"),
    "moretta.shared.audit.report.report_schema": ("Report",),
    "moretta.shared.core.errors": ("MorettaError",),
    "moretta.shared.data.clips": ("Clip", "Corpus", "Speaker"),
    "moretta.shared.data.reader": ("CorpusReader",),
    "moretta.shared.release": ("Release",),
    "moretta.shared.study.schema": ("Study",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("moretta")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0+unknown"
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'moretta' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
