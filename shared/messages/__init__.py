"""Every message between a server and a site: its fields, its bounds, and the function that reads it.

`calls` has the kinds of requests and responses, by the name of the call. Neither side uses a field of the other's
before `read` has checked the whole message.
"""
