// The page that asks for the view token. It sends the token once, and gets a cookie in return.

const form = document.getElementById("enter");
const token = /** @type {HTMLInputElement} */ (document.getElementById("token"));
const said = document.getElementById("said");

/** @type {Object<number, string>} */
const WHY = { 401: "This is not the view token.", 421: "This machine's certificate is not for this name: use another name in the address." };

form?.addEventListener("submit", async event => {
  event.preventDefault();
  if (!said) return;
  said.textContent = "";
  try {
    const answer = await fetch("api/enter", { headers: { authorization: `Bearer ${token.value.trim()}` } });
    if (answer.ok) { location.reload(); return; }
    said.textContent = WHY[answer.status] ?? `The board answers ${answer.status}.`;
  } catch {
    said.textContent = "The board does not answer, or this is not a token.";
  }
  token.focus();
});
