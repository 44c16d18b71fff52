// Something that is being saved: whether it is under way, and what was wrong with it.

export class Saving {
  isBusy = $state(false);
  problem = $state<string | null>(null);

  async run(save: () => Promise<unknown>) {
    this.isBusy = true;
    this.problem = null;
    try {
      await save();
    } catch (caught) {
      this.problem = caught instanceof Error ? caught.message : String(caught);
    }
    this.isBusy = false;
  }
}
