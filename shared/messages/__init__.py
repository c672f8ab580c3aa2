"""Every message between a server and a site: what may be in it, how large it may be, and the function that reads it.

`requests` has what a site is sent, `responses` what it sends back, by the name of the call. Neither side uses a field
of the other's before `read` has checked the whole message.
"""

from moretta.shared.messages.message import SHOWN, Message, read
from moretta.shared.messages.requests import REQUESTS
from moretta.shared.messages.responses import RESPONSES, Failed, failure_of

__all__ = ["REQUESTS", "RESPONSES", "SHOWN", "Failed", "Message", "failure_of", "read"]
