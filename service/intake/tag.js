/* Backtrack's page tag: keeps the click id and a random tag id in a cookie of the page's own site, and sends events,
   in their order. A page sends the same event with the same values once, across reload and back button.
   backtrack('registration', { uid: 'u17' })   with a third argument, true: the page is about to be left
   Nothing is kept or sent under do-not-track or Global Privacy Control. */
(function (window, document, names) {
  'use strict';
  var script = document.currentScript, earlier = window.backtrack, browser = navigator, sent = {}, waiting = [];
  if (!script || (earlier && earlier.tag)) return;
  var data = script.dataset, source = new URL(script.src);
  var client = data.client || source.searchParams.get('client'), key = 'backtrack_' + client;
  var silent = browser.globalPrivacyControl === true || browser.doNotTrack === '1' || window.doNotTrack === '1';

  function quietly(act) { try { return act(); } catch { return ''; } }  // storage may be off
  function kept() {
    var found = ('; ' + document.cookie).split('; ' + key + '=')[1];
    var parts = (found || quietly(() => localStorage.getItem(key)) || '').split(';')[0].split('.');
    return { tag: parts[0], click: quietly(() => decodeURIComponent(parts[1] || '')) };
  }
  function keep(tag, click) {
    var value = tag + '.' + encodeURIComponent(click).replace(/\./g, '%2E');
    document.cookie = key + '=' + value + '; path=/; SameSite=Lax; max-age=' + (data.days || 90) * 86400 +
      (data.domain ? '; domain=' + data.domain : '') + (location.protocol === 'https:' ? '; Secure' : '');
    if (document.cookie.indexOf(value) < 0) quietly(() => localStorage.setItem(key, value));
  }
  function random() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => (byte + 256).toString(16).slice(1)).join('');
  }
  function arrived() {
    var query = new URLSearchParams(location.search), all = names.concat((data.clickId || '').split(' '));
    return all.map(name => query.get(name)).filter(Boolean)[0];
  }
  function page() { return key + location.pathname + location.search; }
  function note(what, is) {
    if (what) sent[what] = is;
    quietly(() => sessionStorage.setItem(page(), JSON.stringify(sent)));
  }
  function send(event, values, leaving) {
    var what = JSON.stringify([event, values]), here = kept();
    if (silent || !client || sent[what]) return;
    note(what, 1);
    var query = new URLSearchParams({ client: client, event: event, tag_id: here.tag });
    if (here.click) query.set('click_id', here.click);
    for (var name in values) if (values[name] != null) query.set(name, values[name]);
    if ((leaving || document.visibilityState === 'hidden') && beacon([what, query])) return;
    if (waiting.push([what, query]) === 1) next();
  }
  function beacon(one) { return browser.sendBeacon && browser.sendBeacon(source.origin + '/e.gif?' + one[1]); }
  function next() {
    var answer = document.createElement('script');  // runs what is handed out to this visitor
    answer.src = source.origin + '/e.js?' + waiting[0][1];
    answer.onload = answer.onerror = done => {
      var what = waiting.shift()[0];
      if (done.type === 'error') note(what, 0);  // the next load tries again
      if (waiting.length) next();
    };
    document.head.appendChild(answer);
  }
  function start() {
    window.backtrack = send;
    send.tag = '-';
    if (silent || !client) return;
    var here = kept(), how = (performance.getEntriesByType('navigation')[0] || {}).type;
    keep(here.tag || random(), arrived() || here.click);
    send.tag = kept().tag;
    if (/reload|back/.test(how)) sent = quietly(() => JSON.parse(sessionStorage.getItem(page()))) || {};
    note();
    if (data.pageview !== 'off') send('pageview', { page: location.pathname });
    ((earlier || {}).q || []).forEach(call => send.apply(null, call));
  }
  addEventListener('pagehide', () => waiting.splice(1).forEach(beacon));
  if (document.prerendering) document.addEventListener('prerenderingchange', start, { once: true });
  else start();
})(window, document, ["click_id"]);
