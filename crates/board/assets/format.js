// Formats numbers and times for the page, and makes elements.

/** @param {string} id */
export const $ = id => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * An element with text or children.
 * @param {string} name
 * @param {Object<string, string>} [attributes]
 * @param {...(Node | string)} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** An SVG element with text. */
export function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

/** A colour of the style sheet. */
export const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A measured number, to four or five digits. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return value.toFixed(size >= 100 ? 2 : size >= 1 ? 3 : 4);
}

export const count = value => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US"));

/** A time span in readable units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds > 0 && seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value, unit = 0;
  while (size >= 1000 && unit < units.length - 1) { size /= 1000; unit += 1; }
  return `${size.toFixed(size < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** A moment in the browser's time zone. */
export function clock(time) {
  if (time === null || time === undefined) return "";
  const moment = new Date(time * 1000);
  const hour = moment.toLocaleTimeString("en-GB");
  return Date.now() - moment.getTime() < 86400e3 ? hour : `${moment.toLocaleDateString("en-CA")} ${hour}`;
}

/** The task's word for examples, in the plural. */
export const several = about => `${about?.example ?? "example"}s`;

export const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
