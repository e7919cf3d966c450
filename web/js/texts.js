/**
 * Texts in the language of the user interface, from locales/<language>/main.json.
 *
 * @typedef {object} Texts
 * @property {string} locale
 * @property {(key: string, values?: Record<string, string>) => string} say a text with its {places} filled in
 * @property {(share: number) => string} percent
 * @property {(value: number, digits: number) => string} number with so many digits after the point
 */

/** @returns {Texts} of one section, from what the server has for all packs, by language */
export function textsFrom(
  /** @type {Record<string, any>} */ translations,
  /** @type {string} */ locale,
  /** @type {string} */ section,
) {
  const own = translations[locale]?.["AT-EDM"]?.[section] ?? {}
  const english = translations.en?.["AT-EDM"]?.[section] ?? {}
  // widgets show Latin digits in every language, and so does what is drawn beside them
  const format = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1, numberingSystem: "latn" })
  return {
    locale,
    say: (key, values = {}) => {
      const text = String(own[key] ?? english[key] ?? key)
      return text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place)
    },
    percent: (share) => format.format(share),
    number: (value, digits) =>
      new Intl.NumberFormat(locale, {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
        numberingSystem: "latn",
      }).format(value),
  }
}
