"""How long a request may be: the one place that says it to all the programs it passes.

The balancer measures what visitors send, and refuses more with a status that says so: 414 or 431.
The programs behind it take as much, and what the others add on the way, so that none of them
refuses what the balancer has let through.
"""

#: bytes of the path and the query of a URL; RFC 9110, section 4.1, recommends that URLs of 8,000
#: are supported. More does not pass: Squid 5 ends at 8,191, with the scheme and the host name.
MAX_URL = 8000
#: bytes of all the header fields together, with their names; cookies are nearly all of a long one
MAX_HEADERS = 16000
#: number of header fields
MAX_FIELDS = 100

#: bytes of a request line behind the balancer: with the method, the version, and the name that
#: pages of anonymous visitors have in caches. It is the most that gunicorn can be told.
REQUEST_LINE = 8190
#: bytes of one header field behind the balancer: it may be all that the visitor sends
FIELD = MAX_HEADERS + 384
#: number of header fields behind the balancer, with what it, the cache and Apache add
FIELDS = MAX_FIELDS + 28
#: bytes of a whole request behind the balancer
REQUEST = 32768
