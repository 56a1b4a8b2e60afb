"use strict";
// Errors are written into the page: a reader sees nothing of them, a test does.
const errors = [];
addEventListener("error", event => {
  errors.push(event.message);
  document.documentElement.dataset.errors = errors.join(" | ");
});
