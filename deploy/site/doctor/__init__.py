"""`moretta site doctor`: looks at everything that a site needs, and says for each fault how it is put right."""

from moretta.deploy.site.doctor.examine import examine
from moretta.deploy.site.doctor.findings import Finding, worst

__all__ = ["Finding", "examine", "worst"]
