/* Requests that change something, and those of CubicWeb's scripts, carry the token of the cookie
 * csrf_token. A page from a shared cache sets no cookie: the first such request fetches one. The
 * cookie is read again for each request, since another page may have got a new one.
 */
jQuery.ajaxPrefilter(function (options) {
  var safe = /^(GET|HEAD|OPTIONS|TRACE)$/i.test(options.type);
  if (safe || options.crossDomain) {
    return;
  }
  if (!getCookie("csrf_token")) {
    jQuery.ajax({ url: BASE_URL + "csrf-token", async: false, cache: false });
  }
  options.headers = jQuery.extend({}, options.headers, {
    "X-CSRF-Token": getCookie("csrf_token") || "",
  });
});
