// The form of a product: says when somebody else has changed the product meanwhile.

import { follow } from "flagon/live";

const page = document.querySelector("[data-product]");
const id = page.dataset.product;

follow([`products/${id}`], {
  onEvent(type, product) {
    if (product.id === id && product.version > Number(page.dataset.version)) document.querySelector("[data-stale]").hidden = false;
  },
  // A form that somebody is filling in stays as it is; what was missed is found by saving.
  onGap() {},
});
