// Texts, numbers and money in the language of the page. `make translations` collects what
// stands in _() and ngettext() and writes the translations into words.<language>.js.

import words from "flagon/words";

export const language = document.documentElement.lang || "en";
const plurals = new Intl.PluralRules(language);

function fill(text, values) {
  return text.replace(/%\((\w+)\)s/g, (place, name) => (name in values ? String(values[name]) : place));
}

export function _(text, values = {}) {
  return fill(Object.hasOwn(words, text) ? words[text] : text, values);
}

// The form that fits a number, which it shows as %(num)s.
export function ngettext(one, many, count, values = {}) {
  const forms = Object.hasOwn(words, one) ? words[one] : [one, many];
  return fill(forms[plurals.select(count) === "one" ? 0 : 1], { num: number(count), ...values });
}

export function number(value, options = {}) {
  return new Intl.NumberFormat(language, options).format(value);
}

export function money(minor, currency) {
  const format = new Intl.NumberFormat(language, { style: "currency", currency });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

// The person's own way to write times, where it is of the page's language.
export function times() {
  const own = navigator.languages.find((tag) => tag.split("-")[0] === language);
  return new Intl.DateTimeFormat(own ?? language, { dateStyle: "medium", timeStyle: "short" });
}
