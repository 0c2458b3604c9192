// Reads a text aloud while it is still being written, one sentence at a time, with the browser's own voices.
// It looks at the text on the page (data.target) and asks nobody else: no network, no markup from the text.

const LOOK_MS = 250;
const VOICES_MS = 2000; // browsers load their voices after the page
const SPEAKS = "speechSynthesis" in window;
const held = new WeakMap();

// As core/stories/read_aloud.py cuts: an ending with its closing quotes, or a Latin full stop before white space.
const END = /(?:[。！？!?…；]+[”’」』）)"']*|\.+[”’"')]*(?=\s)|\n)\s*/g;

function sentences(text, over) {
  const found = [];
  let start = 0;
  for (const end of text.matchAll(END)) {
    const stop = end.index + end[0].length;
    found.push(text.slice(start, stop));
    start = stop;
  }
  if (over) found.push(text.slice(start));
  return found.map((one) => one.trim()).filter((one) => /[\p{L}\p{N}]/u.test(one));
}

function languageOf(text) {
  return /[\u4e00-\u9fff]/.test(text) ? "zh" : "en";
}

function draw(parentElement, labels) {
  const make = (kind, parent) => parent.appendChild(document.createElement(kind));
  const box = make("div", parentElement);
  Object.assign(box.style, {
    display: "flex", flexWrap: "wrap", gap: "0.5rem", alignItems: "center",
    font: "0.875rem var(--st-font)", color: "var(--st-text-color)",
  });
  const button = (label) => {
    const made = make("button", box);
    made.type = "button";
    made.textContent = label;
    Object.assign(made.style, {
      font: "inherit", color: "inherit", background: "var(--st-secondary-background-color)", cursor: "pointer",
      border: "1px solid var(--st-border-color)", borderRadius: "var(--st-base-radius)", padding: "0.25rem 0.75rem",
    });
    return made;
  };
  const field = (label, kind) => {
    const around = make("label", box);
    around.append(label + " ");
    const made = make(kind, around);
    Object.assign(made.style, {
      font: "inherit", color: "inherit", background: "var(--st-background-color)", maxWidth: "14rem",
      accentColor: "var(--st-primary-color)",
    });
    return made;
  };
  const ui = { box, pause: button(labels.pause), again: button(labels.again) };
  ui.voice = field(labels.voice, "select");
  ui.rate = field(labels.rate, "input");
  Object.assign(ui.rate, { type: "range", min: "0.5", max: "2", step: "0.1", value: "1" });
  ui.now = make("div", box);
  ui.now.setAttribute("aria-live", "off");
  Object.assign(ui.now.style, {
    flexBasis: "100%", minHeight: "1.5em", padding: "0.1rem 0.5rem",
    borderLeft: "3px solid var(--st-primary-color)", overflowWrap: "anywhere",
  });
  ui.trouble = make("div", parentElement);
  ui.trouble.setAttribute("role", "status");
  Object.assign(ui.trouble.style, { font: "0.875rem var(--st-font)", color: "var(--st-text-color)" });
  return ui;
}

// Why nothing, or the wrong voice, is heard, and what to do; "": all is well. Without any voice there is no control.
function tell(me, trouble) {
  me.ui.trouble.textContent = trouble;
  me.ui.box.style.display = trouble && !me.voices.length ? "none" : "flex";
}

function voicesInto(me) {
  const chosen = me.ui.voice.value;
  const all = window.speechSynthesis.getVoices();
  const fitting = all.filter((voice) => voice.lang.toLowerCase().startsWith(me.language));
  me.voices = fitting.length ? fitting : all;
  me.ui.voice.replaceChildren(
    ...me.voices.map((voice) => {
      const option = document.createElement("option");
      option.value = voice.voiceURI;
      option.textContent = `${voice.name} (${voice.lang})`;
      return option;
    }),
  );
  if (me.voices.some((voice) => voice.voiceURI === chosen)) me.ui.voice.value = chosen;
  if (me.voices.length) tell(me, fitting.length ? "" : me.data.labels[me.language]);
}

function sayNext(me) {
  if (me.speaking || me.paused || me.next >= me.found.length) return;
  const sentence = me.found[me.next];
  me.next += 1;
  const spoken = new SpeechSynthesisUtterance(sentence);
  const language = languageOf(sentence);
  if (language !== me.language) {
    me.language = language;
    voicesInto(me);
  }
  spoken.lang = language === "zh" ? "zh-CN" : "en-US";
  spoken.voice = me.voices.find((voice) => voice.voiceURI === me.ui.voice.value) ?? null;
  spoken.rate = Number(me.ui.rate.value);
  me.speaking = spoken;
  me.ui.now.textContent = sentence;
  spoken.onend = () => {
    if (me.speaking !== spoken) return;
    me.speaking = null;
    me.ui.now.textContent = "";
    sayNext(me);
  };
  spoken.onerror = () => {
    if (me.speaking !== spoken) return; // it was stopped here
    hush(me);
    me.next -= 1;
    setPaused(me, true);
    tell(me, me.data.labels.failed);
  };
  window.speechSynthesis.speak(spoken);
}

function setPaused(me, paused) {
  me.paused = paused;
  me.ui.pause.textContent = paused ? me.data.labels.go_on : me.data.labels.pause;
}

function hush(me) {
  me.speaking = null;
  window.speechSynthesis.cancel();
  me.ui.now.textContent = "";
}

function look(me) {
  if (!me.voices.length) {
    voicesInto(me); // not every browser says that they have come
    if (!me.voices.length) {
      if (performance.now() - me.began > VOICES_MS) tell(me, me.data.labels.none);
      return;
    }
  }
  const words = document.querySelector(me.data.target);
  const text = words ? words.innerText : "";
  const found = sentences(text, me.data.over);
  if (found.length >= me.found.length) me.found = found;
  sayNext(me);
}

export default function ({ data, parentElement }) {
  let me = held.get(parentElement);
  if (!me) {
    const ui = draw(parentElement, data.labels);
    me = {
      ui, data, found: [], next: 0, speaking: null, paused: false, voices: [], began: performance.now(),
      language: "", // of the sentence that was read last
    };
    held.set(parentElement, me);
    if (SPEAKS) {
      voicesInto(me);
      me.onVoices = () => voicesInto(me);
      window.speechSynthesis.addEventListener?.("voiceschanged", me.onVoices);
      me.timer = setInterval(() => look(me), LOOK_MS);
    } else tell(me, data.labels.none);
  }
  if (!SPEAKS) return () => held.delete(parentElement);
  if (me.data.story !== data.story) {
    hush(me);
    Object.assign(me, { found: [], next: 0, paused: false });
  }
  me.data = data;
  setPaused(me, me.paused);
  me.ui.pause.onclick = () => {
    setPaused(me, !me.paused);
    if (me.paused) window.speechSynthesis.pause();
    else {
      voicesInto(me);
      window.speechSynthesis.resume();
      sayNext(me);
    }
  };
  me.ui.again.onclick = () => {
    hush(me);
    window.speechSynthesis.resume();
    me.next = 0;
    setPaused(me, false);
    voicesInto(me);
    look(me);
  };
  look(me);
  return () => {
    clearInterval(me.timer);
    window.speechSynthesis.removeEventListener?.("voiceschanged", me.onVoices);
    hush(me);
    held.delete(parentElement);
  };
}
