// Keyboard, full screen and scrolling of presenter mode. A key presses the button on the page that does the same, so
// that keys and clicks cannot differ. Nothing is sent from here.

const held = new WeakMap();
const KEYS = {
  " ": "write", Enter: "write", ArrowRight: "next", PageDown: "next", ArrowLeft: "previous", PageUp: "previous",
  "?": "help", "？": "help", f: "full", F: "full",
};
const PANES = ["1", "2"];
const SAME_PRESS_MS = 500; // a browser may report one Escape twice: as a key, and as the end of the full screen
const READY = "fabula-presenter"; // on the document while keys are listened to
const NEAR_PX = 8; // from the end: there the newest words are followed

const find = (name) => document.querySelector(`.st-key-presenter_${name} button`);

function press(name) {
  const button = find(name);
  if (button && !button.disabled) button.click();
  return button !== null;
}

function choosePanes(key) {
  const all = [...document.querySelectorAll(".st-key-presenter_panes button")];
  all.find((one) => one.innerText.trim() === key && !one.disabled)?.click();
}

// Stop what is being written; when nothing is, leave.
function escape(me) {
  const now = Date.now();
  if (now - me.escaped < SAME_PRESS_MS) return;
  me.escaped = now;
  if (!press("stop") && !find("stopping")) press("leave");
}

function toggleFullScreen(me) {
  if (document.fullscreenElement) {
    me.leavesFullScreen = true;
    document.exitFullscreen();
  } else goFullScreen(me);
}

function goFullScreen(me) {
  if (!document.fullscreenEnabled) return;
  document.documentElement
    .requestFullscreen()
    .then(() => {
      me.full = true;
      return navigator.keyboard?.lock?.(["Escape"]); // Chromium: Escape comes as a key, and stops first
    })
    .catch(() => {}); // the browser allows it only after a click or a key
}

function onKey(me, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target;
  const open = document.querySelector('[data-testid="stPopoverBody"], [role="listbox"], [role="dialog"]');
  me.closing = event.key === "Escape" && open !== null;
  if (me.closing) setTimeout(() => onFocus(me, document.activeElement)); // it may never have left the button
  if (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName)) return;
  if (open && event.key !== "?") return; // its own keys, Escape among them
  const name = KEYS[event.key];
  if (name === "write" && target.tagName === "BUTTON" && target.matches(":focus-visible")) return; // reached by Tab
  if (event.key === "Escape") escape(me);
  else if (PANES.includes(event.key)) choosePanes(event.key);
  else if (name === undefined || event.shiftKey && event.key !== "?" && event.key !== "F") return;
  else if (!event.repeat || name === "next" || name === "previous") {
    if (name === "full") toggleFullScreen(me);
    else press(name);
  }
  event.preventDefault(); // the page does not scroll, and a button that was clicked before is not pressed again
  event.stopPropagation();
}

// Escape has closed something, and the focus goes back to the button that opened it. There, Space would open it again
// instead of starting to write.
function onFocus(me, target) {
  if (me.closing && target?.tagName === "BUTTON") target.blur();
}

function onClick(me, event) {
  me.closing = false;
  const target = event.target;
  if (target.closest(".st-key-presenter_full")) {
    event.stopPropagation(); // nothing for the server to do
    toggleFullScreen(me);
  } else if (target.closest(".st-key-presenter_leave") && /[?&]embed=/.test(location.search)) {
    event.stopPropagation(); // an embedded page has no menu to go on with
    location.assign(location.pathname);
  }
}

function onFullScreen(me) {
  if (document.fullscreenElement) return;
  if (me.full && !me.leavesFullScreen) escape(me); // by the browser's own Escape
  me.full = me.leavesFullScreen = false;
}

// The newest words stay in sight, unless somebody has scrolled up to read.
function follow(me) {
  for (const words of document.querySelectorAll('[class*="st-key-presenter_words_"]')) {
    if (me.readsAbove.has(words)) continue;
    words.scrollTop = words.scrollHeight;
    me.seen.set(words, words.scrollTop);
  }
}

function onScroll(me, event) {
  const words = event.target;
  if (!(words instanceof Element) || !words.className.includes("st-key-presenter_words_")) return;
  if (words.scrollTop < (me.seen.get(words) ?? 0) - NEAR_PX) me.readsAbove.add(words);
  if (words.scrollHeight - words.scrollTop - words.clientHeight < NEAR_PX) me.readsAbove.delete(words);
  me.seen.set(words, words.scrollTop);
}

export default function ({ parentElement }) {
  let me = held.get(parentElement);
  if (!me) {
    me = { closing: false, escaped: 0, full: false, leavesFullScreen: false };
    me.readsAbove = new WeakSet();
    me.seen = new WeakMap();
    held.set(parentElement, me);
    me.onKey = (event) => onKey(me, event);
    me.onKeyUp = (event) => {
      if (event.key === " " && event.target.matches("button:not(:focus-visible)")) event.preventDefault();
    };
    me.onClick = (event) => onClick(me, event);
    me.onFocus = (event) => onFocus(me, event.target);
    me.onFullScreen = () => onFullScreen(me);
    me.onScroll = (event) => onScroll(me, event);
    me.words = new MutationObserver(() => follow(me));
    document.addEventListener("keydown", me.onKey, true);
    document.addEventListener("keyup", me.onKeyUp, true);
    document.addEventListener("click", me.onClick, true);
    document.addEventListener("focusin", me.onFocus, true);
    document.addEventListener("scroll", me.onScroll, true);
    document.addEventListener("fullscreenchange", me.onFullScreen);
    me.words.observe(document.body, { childList: true, characterData: true, subtree: true });
    document.documentElement.classList.toggle("fabula-no-full-screen", !document.fullscreenEnabled);
    document.documentElement.classList.add(READY);
    if (navigator.userActivation?.isActive && !document.fullscreenElement) goFullScreen(me);
  }
  return () => {
    document.removeEventListener("keydown", me.onKey, true);
    document.removeEventListener("keyup", me.onKeyUp, true);
    document.removeEventListener("click", me.onClick, true);
    document.removeEventListener("focusin", me.onFocus, true);
    document.removeEventListener("scroll", me.onScroll, true);
    document.removeEventListener("fullscreenchange", me.onFullScreen);
    document.documentElement.classList.remove(READY);
    me.words.disconnect();
    held.delete(parentElement);
    navigator.keyboard?.unlock?.();
    if (me.full && document.fullscreenElement) document.exitFullscreen();
  };
}
