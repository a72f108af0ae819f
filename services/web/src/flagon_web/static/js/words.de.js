// Made by `make translations`.
export default {
 "%(done)s of %(total)s %(unit)s": "%(done)s von %(total)s %(unit)s",
 "%(name)s is editing it.": "%(name)s bearbeitet das gerade.",
 "%(num)s in stock": [
  "%(num)s vorrätig",
  "%(num)s vorrätig"
 ],
 "%(num)s person is looking at this.": [
  "%(num)s Person sieht sich das gerade an.",
  "%(num)s Personen sehen sich das gerade an."
 ],
 "%(num)s suggestion. Use the arrow keys.": [
  "%(num)s Vorschlag. Wähle mit den Pfeiltasten.",
  "%(num)s Vorschläge. Wähle mit den Pfeiltasten."
 ],
 "%(num)s ticked": [
  "%(num)s angekreuzt",
  "%(num)s angekreuzt"
 ],
 "Only %(num)s left": [
  "Nur noch %(num)s da",
  "Nur noch %(num)s da"
 ],
 "Close": "Schließen",
 "Connecting…": "Verbindung wird aufgebaut …",
 "Connection lost. Reconnecting…": "Verbindung verloren. Wird wieder aufgebaut …",
 "Copied": "Kopiert",
 "It is being drawn…": "Es wird gezeichnet …",
 "Live": "Live",
 "No suggestions": "Keine Vorschläge",
 "Not live. Sign in again to see changes.": "Nicht live. Melde dich wieder an, um Änderungen zu sehen.",
 "Paused": "Angehalten",
 "Sold out": "Ausverkauft",
 "Somebody else": "Jemand anders",
 "The picture could not be sent.": "Das Bild konnte nicht gesendet werden.",
 "The picture is too large.": "Das Bild ist zu groß.",
 "Uploading…": "Wird hochgeladen …",
 "new, %(price)s": "neu, %(price)s",
 "now %(price)s": "jetzt %(price)s",
 "now %(price)s instead of %(was)s": "jetzt %(price)s statt %(was)s",
 "products": "Produkte",
 "reviewed": "bewertet",
 "rows": "Zeilen",
 "updated": "geändert"
};
