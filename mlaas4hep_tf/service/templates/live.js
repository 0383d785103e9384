function log_of(live) { return live.querySelector("pre"); }
function show_end(log) { if (log) log.scrollTop = log.scrollHeight; }
async function renew(live) {
  if (live.contains(document.activeElement)) return;  // who reads there, or has come there by keys, stays there
  try {
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
    const now = page.getElementById("live"), log = log_of(live);
    if (!now || now.innerHTML === live.innerHTML) return;
    const top = log ? log.scrollTop : 0, end = log && top + log.clientHeight >= log.scrollHeight - 4;
    live.innerHTML = now.innerHTML;
    if (end) show_end(log_of(live)); else if (log_of(live)) log_of(live).scrollTop = top;
  } catch (error) { /* the next look may succeed */ }
}
const live = document.getElementById("live");
if (live) { show_end(log_of(live)); setInterval(() => renew(live), 2000); }
