// A button that copies a text (data.text) to the clipboard, and says whether that worked.

const SAID_MS = 2500;
const ICON =
  "M8 7V4a1 1 0 0 1 1-1h11a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1h-3M4 8h11a1 1 0 0 1 1 1v11a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V9" +
  "a1 1 0 0 1 1-1z";

function icon() {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.appendChild(document.createElementNS(namespace, "path")).setAttribute("d", ICON);
  return svg;
}

// Pages without TLS, other than localhost, have no clipboard API; the old command works there.
function copyOldWay(text) {
  const field = document.body.appendChild(document.createElement("textarea"));
  field.value = text;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOldWay(text);
  }
}

export default function ({ data, parentElement }) {
  let button = parentElement.querySelector("button");
  if (!button) {
    button = parentElement.appendChild(document.createElement("button"));
    button.type = "button";
    button.append(icon(), document.createElement("span"));
    const said = parentElement.appendChild(document.createElement("span"));
    said.setAttribute("role", "status");
  }
  const [label, said] = [button.querySelector("span"), parentElement.querySelector("[role=status]")];
  label.textContent = data.labels.copy;
  button.onclick = async () => {
    const done = await copy(data.text);
    button.focus();
    said.textContent = done ? data.labels.copied : data.labels.blocked;
    clearTimeout(button.timer);
    if (done) button.timer = setTimeout(() => (said.textContent = ""), SAID_MS);
  };
}
