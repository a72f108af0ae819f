// The account menu closes like a menu: by Escape and by a click elsewhere. It is on every
// page, so all of them show times as the person's own clock does.

import "flagon/page";

const menu = document.querySelector(".menu");
document.addEventListener("click", (event) => {
  if (menu?.open && !menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu?.open) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
