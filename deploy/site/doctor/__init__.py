"""`moretta site doctor`: looks at everything that a site needs, and says for each fault how it is put right."""

from moretta.deploy.site.doctor.doctor_findings import Finding, worst
from moretta.deploy.site.doctor.examine import examine

__all__ = ["Finding", "examine", "worst"]
