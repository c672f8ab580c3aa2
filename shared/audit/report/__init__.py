"""The report: what a study found, as `report.json` for scripts and one self-contained `report.html` for people."""
