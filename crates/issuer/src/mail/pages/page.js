const form = document.querySelector("form");
const status = document.querySelector("[role=status]");
const token = new URLSearchParams(location.search).get("token");
history.replaceState(null, "", location.pathname);
if (!token) {
  form.hidden = true;
  status.textContent = "The link is incomplete. Open it again as it stands in the mail.";
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  status.textContent = "";
  try {
    const body = JSON.stringify({ token, ...Object.fromEntries(new FormData(form)) });
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(location.pathname, { method: "POST", headers, body, credentials: "omit" });
    if (answer.ok) {
      form.hidden = true;
      status.textContent = form.dataset.done;
      return;
    }
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 401) status.textContent = "The link was used already, or is too old. Ask for a new one.";
    else if (Array.isArray(told.violations)) status.textContent = told.violations.map((v) => v.message).join("; ");
    else status.textContent = told.detail ?? "That did not work. Try again in a moment.";
  } catch {
    status.textContent = "That did not work. Try again in a moment.";
  }
  button.disabled = false;
});
