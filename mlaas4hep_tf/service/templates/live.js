async function renew() {
  try {
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
    const now = page.getElementById("live"), live = document.getElementById("live");
    if (now && now.innerHTML !== live.innerHTML) live.innerHTML = now.innerHTML;
  } catch (error) { /* the next look may succeed */ }
}
if (document.getElementById("live")) setInterval(renew, 2000);
