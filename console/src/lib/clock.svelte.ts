// The time, for texts like `3 min ago`.

class Now {
  value = $state(Date.now());
  constructor() {
    setInterval(() => (this.value = Date.now()), 1000);
  }
}

export const now = new Now();
