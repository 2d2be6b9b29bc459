/* Backtrack's page tag: keeps the click id and a random tag id in a cookie of the page's own site, and sends events.
   A page sends the same event with the same values once, across reload and back button.
   <script async src="https://track.example/tag.js?client=acme"></script>
   backtrack('registration', { uid: 'u17' })   with a third argument, true: the page is about to be left
   data-click-id: more names of it   data-domain, data-days: of the cookie   data-pageview="off"
   Nothing is kept or sent under do-not-track or Global Privacy Control. */
(function (window, document, names) {
  'use strict';
  var script = document.currentScript, earlier = window.backtrack, browser = navigator, sent = {};
  if (!script || (earlier && earlier.tag)) return;
  var data = script.dataset, source = new URL(script.src);
  var client = data.client || source.searchParams.get('client'), key = 'backtrack_' + client;
  var silent = browser.globalPrivacyControl === true || browser.doNotTrack === '1' || window.doNotTrack === '1';

  function quietly(act) { try { return act(); } catch (refused) { return ''; } }  // storage may be off
  function kept() {
    var found = ('; ' + document.cookie).split('; ' + key + '=')[1];
    var parts = (found || quietly(function () { return localStorage.getItem(key); }) || '').split(';')[0].split('.');
    return { tag: parts[0], click: quietly(function () { return decodeURIComponent(parts[1] || ''); }) };
  }
  function keep(tag, click) {
    var value = tag + '.' + encodeURIComponent(click).replace(/\./g, '%2E');
    document.cookie = key + '=' + value + '; path=/; SameSite=Lax; max-age=' + (data.days || 90) * 86400 +
      (data.domain ? '; domain=' + data.domain : '') + (location.protocol === 'https:' ? '; Secure' : '');
    if (document.cookie.indexOf(value) < 0) quietly(function () { localStorage.setItem(key, value); });
  }
  function random() {
    var bytes = Array.from(crypto.getRandomValues(new Uint8Array(16)));
    return bytes.map(function (byte) { return (byte + 256).toString(16).slice(1); }).join('');
  }
  function arrived() {
    var query = new URLSearchParams(location.search), all = names.concat((data.clickId || '').split(' '));
    return all.map(function (name) { return query.get(name); }).filter(Boolean)[0];
  }
  function page() { return key + location.pathname + location.search; }
  function note(what, is) {
    if (what) sent[what] = is;
    quietly(function () { sessionStorage.setItem(page(), JSON.stringify(sent)); });
  }
  function send(event, values, leaving) {
    var what = JSON.stringify([event, values]), here = kept();
    if (silent || !client || sent[what]) return;
    note(what, 1);
    var query = new URLSearchParams({ client: client, event: event, tag_id: here.tag });
    if (here.click) query.set('click_id', here.click);
    for (var name in values) if (values[name] != null) query.set(name, values[name]);
    var hidden = leaving || document.visibilityState === 'hidden';
    if (hidden && browser.sendBeacon && browser.sendBeacon(source.origin + '/e.gif?' + query)) return;
    var answer = document.createElement('script');  // runs what is handed out to this visitor
    answer.src = source.origin + '/e.js?' + query;
    answer.onerror = function () { note(what, 0); };  // the next load tries again
    document.head.appendChild(answer);
  }
  function start() {
    window.backtrack = send;
    send.tag = '-';
    if (silent || !client) return;
    var here = kept(), how = (performance.getEntriesByType('navigation')[0] || {}).type;
    keep(here.tag || random(), arrived() || here.click);
    send.tag = kept().tag;
    if (/reload|back/.test(how)) sent = quietly(function () { return JSON.parse(sessionStorage.getItem(page())); }) || {};
    note();
    if (data.pageview !== 'off') send('pageview', { page: location.pathname });
    ((earlier || {}).q || []).forEach(function (call) { send.apply(null, call); });
  }
  if (document.prerendering) document.addEventListener('prerenderingchange', start, { once: true });
  else start();
})(window, document, ["click_id"]);
