{{ made("#") }}
# Each port leads to one CubicWeb instance. Images and static files are kept, pages are not.
vcl 4.1;

import directors;

{% for instance in here %}
{% set web_site = site.sites[instance.site] %}
backend {{ instance.site }}{{ instance.number }} {
    .host = "127.0.0.1";
    .port = "{{ instance.apache_port if site.apache else instance.port }}";
    .connect_timeout = 1s;
    .first_byte_timeout = {{ site.balancer.answer_seconds }}s;
    .probe = {
        .request =
            "GET {{ names.LIVEZ }} HTTP/1.1"
            "Host: {{ web_site.host }}"
            "Connection: close";
        .interval = 1s;
        .timeout = 1s;
        .window = 3;
        .threshold = 2;
        .initial = 2;
    }
}
{% endfor %}

# the site's own web servers
acl purgers {
    "127.0.0.1";
{% for address in web_addresses %}
    "{{ address }}";
{% endfor %}
}

acl balancers {
{% for address in balancer_addresses %}
    "{{ address }}";
{% endfor %}
}

sub vcl_init {
{% for instance in here %}
    # its neighbour takes its place until the balancer has noticed
    new {{ instance.site }}{{ instance.number }}_or_neighbour = directors.fallback();
    {{ instance.site }}{{ instance.number }}_or_neighbour.add_backend({{ instance.site }}{{ instance.number }});
{% if instance.number in neighbours[instance.site] %}
    {{ instance.site }}{{ instance.number }}_or_neighbour.add_backend({{ instance.site }}{{ neighbours[instance.site][instance.number].number }});
{% endif %}
{% endfor %}
}

sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(405));
        }
        return (purge);
    }
    if (client.ip !~ balancers) {
        return (synth(403));
    }
    if (req.method != "GET" && req.method != "HEAD" && req.method != "POST" && req.method != "PUT"
        && req.method != "DELETE" && req.method != "OPTIONS" && req.method != "PATCH") {
        return (synth(405));
    }
{% for instance in here %}
    if (local.socket == "{{ instance.site }}{{ instance.number }}") {
        set req.backend_hint = {{ instance.site }}{{ instance.number }}_or_neighbour.backend();
        # monitors tell of their own instance, and so does what may name one in an encoded way
        if ({% for url in names.MONITOR_URLS %}{{ " || " if not loop.first }}req.url ~ "{{ url }}"{% endfor %}
            || req.url ~ "{{ names.ENCODED_VIEW }}") {
            set req.backend_hint = {{ instance.site }}{{ instance.number }};
        }
    }
{% endfor %}
    # a download may be cacheable though the visitor has a cookie: what CubicWeb answers decides
    if ((req.method == "GET" || req.method == "HEAD")
        && (req.url ~ "{{ cacheable_path }}" || req.url ~ "{{ cacheable_query }}")) {
        return (hash);
    }
{% if shares_pages %}
    # named so by the balancer: a page may be the same for all anonymous visitors
    if (req.url ~ "^{{ names.ANONYMOUS }}" && (req.method == "GET" || req.method == "HEAD")) {
        return (hash);
    }
{% endif %}
    return (pass);
}

sub vcl_backend_response {
    # CubicWeb says what may be kept, and for how long
    if (beresp.http.Cache-Control ~ "(?i)private|no-store|no-cache" || beresp.http.Set-Cookie
        || beresp.ttl <= 0s) {
        set beresp.uncacheable = true;
        return (deliver);
    }
    # served stale while the instances are down or slow
    set beresp.grace = 7d;
{% if shares_pages %}
    if (bereq.url ~ "^{{ names.ANONYMOUS }}") {
        set beresp.grace = 0s;
    }
{% endif %}
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT from {{ name }}";
    } else {
        set resp.http.X-Cache = "MISS from {{ name }}";
    }
}
