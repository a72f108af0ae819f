// The product page: price and stock as they change.

import { follow } from "flagon/live";
import { mark, renew, stockWords } from "flagon/page";
import { money } from "flagon/texts";

const id = document.querySelector(".product[data-product]").dataset.product;
const page = () => document.querySelector(".product[data-product]");

function update(product) {
  const article = page();
  if (product.id !== id || Number(article.dataset.version) >= product.version) return;
  article.dataset.version = product.version;
  const price = article.querySelector("[data-price]");
  const words = money(product.price_minor, product.currency);
  if (price.textContent !== words) {
    const was = article.querySelector("[data-was]");
    was.textContent = price.textContent;
    was.hidden = false;
    price.textContent = words;
    mark(price);
  }
  const stock = article.querySelector("[data-stock]");
  const [level, text] = stockWords(product);
  if (stock.textContent !== text) {
    stock.textContent = text;
    stock.className = `badge badge--${level}`;
    mark(stock);
  }
  const stale = article.querySelector("[data-stale]");
  if (stale) stale.hidden = false;
}

follow([`products/${id}`], {
  onEvent(type, product) {
    // No longer for sale: the server says so, but not over what somebody is filling in.
    if (type.includes("product.changed") && product.status !== "active" && product.id === id
        && !document.querySelector(".edit")) location.reload();
    else if (type.includes("product.changed")) update(product);
    else if (type.includes("product.deleted")) location.reload();
  },
  // A form that somebody is filling in must stay as it is.
  onGap: () => renew(".offer"),
});
